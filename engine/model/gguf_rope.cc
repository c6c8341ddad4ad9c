#include "engine/model/gguf_rope.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/model/rope_scaling.h"
#include "kernels/data_type.h"

namespace winnow {
namespace {

constexpr double kMaxFactor = 1e6;
constexpr double kMinBase = 2;  // of which a logarithm may divide
constexpr double kMaxBase = 1e12;
constexpr double kMaxMagnitude = 1e3;
constexpr double kMinTurns = 1e-3;
constexpr double kMaxTurns = 1e6;
constexpr int kMinContext = 2;  // likewise
constexpr int kMaxContext = 1 << 24;

absl::Status Invalid(const GgufFile& file, const std::string& message) {
  return absl::InvalidArgumentError(absl::StrCat(file.path(), ": ", message));
}

/// A factor for each rotated pair; none when the file has no such tensor.
absl::StatusOr<std::vector<double>> ReadFactors(const GgufFile& file, const char* name,
                                                size_t pairs) {
  const GgufFile::Tensor* tensor = file.FindTensor(name);
  if (tensor == nullptr) return std::vector<double>();
  if (tensor->shape != std::vector<int64_t>{static_cast<int64_t>(pairs)}) {
    return Invalid(file, absl::StrCat("the tensor ", name, " has not one factor for each of the ",
                                      pairs, " rotated pairs"));
  }
  std::vector<float> factors(pairs);
  Dequantize(tensor->type, tensor->data.data(), static_cast<int64_t>(pairs), factors.data());
  for (const float factor : factors) {
    if (!(factor > 0) || std::isinf(factor)) {
      return Invalid(
          file, absl::StrCat("the tensor ", name, " holds ", factor, "; factors must be positive"));
    }
  }
  return std::vector<double>(factors.begin(), factors.end());
}

/// Scaling that keys ask for: none, linear or YaRN. The factor is 1 without scaling.
absl::Status ScaleByKeys(const GgufFile& file, MetadataFields& fields, RopeTable& rope) {
  const std::string type = fields.String("rope.scaling.type", "linear");
  // Before scaling had a type, its factor was called scale_linear.
  const double old_factor = fields.Float("rope.scale_linear", 0, kMaxFactor, 0);
  const double stated = fields.Float("rope.scaling.factor", 0, kMaxFactor, old_factor);
  const double factor = stated == 0 ? 1 : stated;
  if (type == "linear") {
    ScaleLinear(factor, rope);
  } else if (type == "yarn") {
    ScaleYarn({.factor = factor,
               .original_context = static_cast<double>(
                   fields.Int("rope.scaling.original_context_length", kMinContext, kMaxContext)),
               .beta_fast = fields.Float("rope.scaling.yarn_beta_fast", kMinTurns, kMaxTurns, 32),
               .beta_slow = fields.Float("rope.scaling.yarn_beta_slow", kMinTurns, kMaxTurns, 1),
               .magnitude = fields.Float("rope.scaling.yarn_attn_factor", 0, kMaxMagnitude, 0)},
              rope);
  } else if (type != "none" && type != "longrope") {
    return absl::UnimplementedError(
        absl::StrCat(file.path(), ": RoPE scaling of type \"", absl::CHexEscape(type),
                     "\" is not supported; supported are none, linear, yarn, longrope and Llama "
                     "3's"));
  }
  return fields.status();
}

/// Longrope's scaling for the context, if a key or a tensor tells of it.
absl::Status ScaleAsLongrope(const GgufFile& file, int context, MetadataFields& fields,
                             const ModelConfig& config, RopeTable& rope) {
  const bool stated = fields.String("rope.scaling.type", "") == "longrope";
  if (!stated && file.FindTensor(kShortRopeFactorsTensor) == nullptr &&
      file.FindTensor(kLongRopeFactorsTensor) == nullptr) {
    return absl::OkStatus();
  }
  LongropeScaling scaling;
  for (const auto& [name, factors] : {std::pair(kShortRopeFactorsTensor, &scaling.short_factors),
                                      std::pair(kLongRopeFactorsTensor, &scaling.long_factors)}) {
    absl::StatusOr<std::vector<double>> read = ReadFactors(file, name, rope.frequencies.size());
    if (!read.ok()) return read.status();
    if (read->empty()) return Invalid(file, absl::StrCat("the tensor ", name, " is missing"));
    *factors = *std::move(read);
  }
  scaling.original_context = fields.Int("rope.scaling.original_context_length", kMinContext,
                                        kMaxContext, config.max_context);
  scaling.trained_context = config.max_context;
  scaling.served_context = context;
  scaling.magnitude = fields.Float("rope.scaling.attn_factor", 0, kMaxMagnitude, 0);
  if (fields.status().ok()) ScaleLongrope(scaling, rope);
  return fields.status();
}

}  // namespace

absl::Status ReadGgufRopes(const GgufFile& file, const Family& family, int context,
                           MetadataFields& fields, ModelConfig& config) {
  const int dim = fields.Int("rope.dimension_count", 2, config.head_dim, config.head_dim);
  const double base = fields.Float("rope.freq_base", kMinBase, kMaxBase, 10000);
  if (!fields.status().ok()) return fields.status();
  if (dim % 2 != 0) {
    return Invalid(file, absl::StrCat("metadata key ", fields.FullKey("rope.dimension_count"),
                                      " is ", dim, "; it must be even"));
  }
  const auto add = [&](RopeTable table) {
    config.ropes.push_back({family.rope_pairing, dim, std::move(table.frequencies), table.magnitude,
                            table.base, std::move(table.scaling)});
  };
  RopeTable rope = UnscaledRope(base, dim);
  absl::Status status = ScaleByKeys(file, fields, rope);
  if (status.ok()) status = ScaleAsLongrope(file, context, fields, config, rope);
  if (!status.ok()) return status;
  const absl::StatusOr<std::vector<double>> factors =
      ReadFactors(file, kRopeFactorsTensor, rope.frequencies.size());
  if (!factors.ok()) return factors.status();
  for (size_t i = 0; i < factors->size(); ++i) rope.frequencies[i] /= (*factors)[i];
  if (!factors->empty()) {
    rope.scaling = absl::StrCat("Llama 3, ", *std::ranges::max_element(*factors));
  }
  add(std::move(rope));
  if (family.window_rope_base > 0) {
    add(UnscaledRope(
        fields.Float("rope.freq_base_swa", kMinBase, kMaxBase, family.window_rope_base), dim));
  }
  return fields.status();
}

}  // namespace winnow

#include "engine/model/gguf_attention.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace winnow {
namespace {

constexpr int kMaxWindow = 1 << 24;
constexpr double kMaxScale = 1e3;
constexpr double kMinSoftCap = 1e-2;  // by which scores are divided
constexpr double kMaxSoftCap = 1e6;

constexpr std::string_view kPattern = "attention.sliding_window_pattern";

/// Which layers have the window: as a list says, or a period whose last layer has none.
absl::StatusOr<std::vector<bool>> ReadWindowedLayers(const GgufFile& file, const Family& family,
                                                     MetadataFields& fields,
                                                     const ModelConfig& config) {
  const auto layers = static_cast<size_t>(config.layers);
  std::vector<bool> windowed;
  if (const auto list = file.GetInts(fields.FullKey(kPattern)); list.ok()) {
    if ((*list)->size() != layers) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.path(), ": metadata key ", fields.FullKey(kPattern), " lists ",
                       (*list)->size(), " layers instead of ", layers));
    }
    for (const int64_t entry : **list) windowed.push_back(entry != 0);
    return windowed;
  }
  const auto period = static_cast<size_t>(fields.Int(kPattern, 0, 1 << 16, family.full_every));
  for (size_t layer = 0; layer < layers; ++layer) {
    windowed.push_back(period == 0 || layer % period != period - 1);
  }
  return windowed;
}

absl::Status ReadWindows(const GgufFile& file, const Family& family, MetadataFields& fields,
                         ModelConfig& config) {
  config.layer.resize(static_cast<size_t>(config.layers));
  const int window = fields.Int("attention.sliding_window", 0, kMaxWindow, family.default_window);
  const bool has_windows =
      family.has_windows || (family.lists_windows && file.GetInts(fields.FullKey(kPattern)).ok());
  // A window that holds the whole context changes nothing but how layers may rotate.
  const bool holds_everything = window >= config.max_context;
  if (window == 0 || (holds_everything && !has_windows)) return fields.status();
  if (!has_windows) {
    return absl::UnimplementedError(absl::StrCat(
        file.path(), ": a sliding window (metadata key ",
        fields.FullKey("attention.sliding_window"), " is ", window, ") is not supported in ",
        config.architecture, " models",
        family.lists_windows
            ? absl::StrCat(" without ", fields.FullKey(kPattern), ", the list of layers with it")
            : ""));
  }
  const absl::StatusOr<std::vector<bool>> windowed =
      ReadWindowedLayers(file, family, fields, config);
  if (!windowed.ok()) return windowed.status();
  for (size_t layer = 0; layer < windowed->size(); ++layer) {
    if (!(*windowed)[layer]) continue;
    config.layer[layer].sliding_window = holds_everything ? 0 : window;
    config.layer[layer].rope = family.window_rope_base > 0 ? 1 : 0;
  }
  return fields.status();
}

absl::Status ReadSoftCap(const GgufFile& file, const char* key, float fallback,
                         MetadataFields& fields, float* cap) {
  const double value = fields.Float(key, 0, kMaxSoftCap, fallback);
  if (value != 0 && value < kMinSoftCap) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.path(), ": metadata key ", fields.FullKey(key), " is ", value,
                     "; it must be 0 or from ", kMinSoftCap, " to ", kMaxSoftCap));
  }
  *cap = static_cast<float>(value);
  return fields.status();
}

}  // namespace

absl::Status ReadGgufAttention(const GgufFile& file, const Family& family, MetadataFields& fields,
                               ModelConfig& config) {
  config.attention_scale = static_cast<float>(fields.Float("attention.scale", 0, kMaxScale, 0));
  if (config.attention_scale == 0 && config.layers == family.width_scaled_layers) {
    config.attention_scale =
        std::sqrt(static_cast<float>(config.heads) / static_cast<float>(config.hidden));
  }
  absl::Status status = ReadSoftCap(file, "attn_logit_softcapping", family.attention_soft_cap,
                                    fields, &config.attention_soft_cap);
  if (status.ok()) {
    status = ReadSoftCap(file, "final_logit_softcapping", family.logit_soft_cap, fields,
                         &config.logit_soft_cap);
  }
  if (status.ok()) status = ReadWindows(file, family, fields, config);
  return status;
}

}  // namespace winnow

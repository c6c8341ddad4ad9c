#include "engine/model/config.h"

#include <cmath>
#include <filesystem>
#include <limits>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace winnow {
namespace {

// Bounds that keep every later product of sizes far from overflow.
constexpr int kMaxLayers = 1024;
constexpr int kMaxWidth = 1 << 20;  // hidden, ffn
constexpr int kMaxHeads = 1024;
constexpr int kMaxHeadDim = 1024;
constexpr int kHeadDimMultiple = 16;  // what the kernels' vectors divide
constexpr int kMaxVocab = 1 << 24;
constexpr int kMaxContext = 1 << 24;
constexpr double kMaxRopeFactor = 1e6;
constexpr double kAnyNumber = std::numeric_limits<double>::infinity();

constexpr char kRopeFactorsTensor[] = "rope_freqs.weight";

/// What tells one model family from another.
struct Family {
  const char* architecture;
  RopePairing rope_pairing;
  bool qkv_bias;  ///< always there; families without may still have it
};

constexpr Family kFamilies[] = {
    {"llama", RopePairing::kAdjacent, false},
    {"qwen2", RopePairing::kHalves, true},
};

/// Keys whose presence with another value than zero asks for what the forward pass lacks.
constexpr std::pair<const char*, const char*> kUnsupportedFeatures[] = {
    {"expert_count", "mixture of experts"},
    {"attn_logit_softcapping", "soft caps on attention logits"},
    {"final_logit_softcapping", "soft caps on logits"},
    {"attention.scale", "an attention scale of its own"},
    {"logit_scale", "scaled logits"},
    {"residual_scale", "scaled residuals"},
    {"embedding_scale", "scaled embeddings"},
};

template <typename... Parts>
absl::Status Invalid(const GgufFile& file, const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(file.path(), ": ", parts...));
}

template <typename... Parts>
absl::Status Unimplemented(const GgufFile& file, const Parts&... parts) {
  return absl::UnimplementedError(absl::StrCat(file.path(), ": ", parts...));
}

/// Reads the metadata of one architecture and checks its range. The first failure sticks: later
/// reads yield their smallest value, so that status() is checked once for many.
class Fields {
 public:
  Fields(const GgufFile& file, std::string architecture)
      : file_(file), architecture_(std::move(architecture)) {}

  /// The integer under `key`, from `min` to `max`; when it is absent, `fallback` if there is one.
  int Int(std::string_view key, int min, int max, std::optional<int> fallback = std::nullopt) {
    const absl::StatusOr<int64_t> value = file_.GetInt(FullKey(key));
    if (absl::IsNotFound(value.status()) && fallback) return *fallback;
    return static_cast<int>(Checked<int64_t>(key, value, min, max));
  }

  /// The same for numbers.
  double Float(std::string_view key, double min, double max,
               std::optional<double> fallback = std::nullopt) {
    const absl::StatusOr<double> value = file_.GetFloat(FullKey(key));
    if (absl::IsNotFound(value.status()) && fallback) return *fallback;
    return Checked<double>(key, value, min, max);
  }

  std::string String(std::string_view key, std::string_view fallback) {
    absl::StatusOr<std::string> value = file_.GetString(FullKey(key));
    if (value.ok()) return *std::move(value);
    if (!absl::IsNotFound(value.status())) Fail(value.status());
    return std::string(fallback);
  }

  bool Has(std::string_view key) const { return file_.metadata().contains(FullKey(key)); }
  std::string FullKey(std::string_view key) const { return architecture_ + "." + std::string(key); }
  const absl::Status& status() const { return status_; }

 private:
  template <typename T>
  T Checked(std::string_view key, const absl::StatusOr<T>& value, T min, T max) {
    if (value.ok() && *value >= min && *value <= max) return *value;  // never for NaN
    Fail(value.ok() ? Invalid(file_, "metadata key ", FullKey(key), " is ", *value,
                              "; it must be from ", min, " to ", max)
                    : absl::InvalidArgumentError(value.status().message()));
    return min;
  }

  void Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
  }

  const GgufFile& file_;
  std::string architecture_;
  absl::Status status_;
};

absl::StatusOr<const Family*> FindFamily(const GgufFile& file) {
  const absl::StatusOr<std::string> architecture = file.GetString("general.architecture");
  if (!architecture.ok()) return absl::InvalidArgumentError(architecture.status().message());
  for (const Family& family : kFamilies) {
    if (*architecture == family.architecture) return &family;
  }
  return Unimplemented(file, "the model architecture \"", absl::CHexEscape(*architecture),
                       "\" is not supported; supported are llama and qwen2");
}

absl::Status RefuseUnsupportedFeatures(const GgufFile& file, Fields& fields) {
  for (const auto& [key, feature] : kUnsupportedFeatures) {
    if (fields.Float(key, -kAnyNumber, kAnyNumber, 0) != 0) {
      return Unimplemented(file, feature, " (metadata key ", fields.FullKey(key),
                           ") is not supported");
    }
  }
  return fields.status();
}

void ReadSizes(Fields& fields, ModelConfig& config) {
  config.layers = fields.Int("block_count", 1, kMaxLayers);
  config.hidden = fields.Int("embedding_length", 1, kMaxWidth);
  config.ffn = fields.Int("feed_forward_length", 1, kMaxWidth);
  config.heads = fields.Int("attention.head_count", 1, kMaxHeads);
  config.kv_heads = fields.Int("attention.head_count_kv", 1, kMaxHeads, config.heads);
  config.max_context = fields.Int("context_length", 1, kMaxContext);
  config.norm_epsilon =
      static_cast<float>(fields.Float("attention.layer_norm_rms_epsilon", 1e-12, 0.1));
}

absl::Status ReadHeadDim(const GgufFile& file, Fields& fields, ModelConfig& config) {
  if (config.heads % config.kv_heads != 0) {
    return Invalid(file, config.heads, " query heads cannot share ", config.kv_heads,
                   " KV heads evenly");
  }
  if (!fields.Has("attention.key_length") && config.hidden % config.heads != 0) {
    return Invalid(file, "the width ", config.hidden, " does not divide into ", config.heads,
                   " heads, and ", fields.FullKey("attention.key_length"), " is missing");
  }
  config.head_dim =
      fields.Int("attention.key_length", 1, kMaxHeadDim, config.hidden / config.heads);
  const int value_dim = fields.Int("attention.value_length", 1, kMaxHeadDim, config.head_dim);
  if (!fields.status().ok()) return fields.status();
  if (value_dim != config.head_dim) {
    return Unimplemented(file, "values of another size (", value_dim, ") than keys (",
                         config.head_dim, ") are not supported");
  }
  if (config.head_dim % kHeadDimMultiple != 0 || config.head_dim > kMaxHeadDim) {
    return Unimplemented(file, "the head size ", config.head_dim,
                         " is not supported; it must be a multiple of ", kHeadDimMultiple,
                         " up to ", kMaxHeadDim);
  }
  return absl::OkStatus();
}

/// By how much positions are compressed: 1 without scaling.
absl::StatusOr<double> ReadLinearRopeFactor(const GgufFile& file, Fields& fields) {
  const std::string type = fields.String("rope.scaling.type", "linear");
  // Before scaling had a type, its factor was called scale_linear.
  const double old_factor = fields.Float("rope.scale_linear", 0, kMaxRopeFactor, 0);
  const double factor = fields.Float("rope.scaling.factor", 0, kMaxRopeFactor, old_factor);
  if (!fields.status().ok()) return fields.status();
  if (type != "none" && type != "linear") {
    return Unimplemented(file, "RoPE scaling of type \"", absl::CHexEscape(type),
                         "\" is not supported; supported are none, linear and Llama 3's");
  }
  return type == "none" || factor == 0 ? 1 : factor;
}

/// Llama 3's factor of each pair's frequency; ones when the file has none.
absl::StatusOr<std::vector<float>> ReadRopeFactors(const GgufFile& file, int pairs) {
  std::vector<float> factors(pairs, 1.0f);
  const GgufFile::Tensor* tensor = file.FindTensor(kRopeFactorsTensor);
  if (tensor == nullptr) return factors;
  if (tensor->shape != std::vector<int64_t>{pairs}) {
    return Invalid(file, "the tensor ", kRopeFactorsTensor, " has not one factor for each of the ",
                   pairs, " rotated pairs");
  }
  Dequantize(tensor->type, tensor->data.data(), pairs, factors.data());
  for (const float factor : factors) {
    if (!(factor > 0) || std::isinf(factor)) {
      return Invalid(file, "the tensor ", kRopeFactorsTensor, " holds ", factor,
                     "; factors must be positive");
    }
  }
  return factors;
}

absl::Status ReadRope(const GgufFile& file, Fields& fields, ModelConfig& config) {
  config.rope_dim = fields.Int("rope.dimension_count", 2, config.head_dim, config.head_dim);
  const double base = fields.Float("rope.freq_base", 1, 1e12, 10000);
  const absl::StatusOr<double> factor = ReadLinearRopeFactor(file, fields);
  if (!factor.ok()) return factor.status();
  if (config.rope_dim % 2 != 0) {
    return Invalid(file, "metadata key ", fields.FullKey("rope.dimension_count"), " is ",
                   config.rope_dim, "; it must be even");
  }
  const int pairs = config.rope_dim / 2;
  const absl::StatusOr<std::vector<float>> pair_factors = ReadRopeFactors(file, pairs);
  if (!pair_factors.ok()) return pair_factors.status();
  for (int i = 0; i < pairs; ++i) {
    const double frequency = std::pow(base, -2.0 * i / config.rope_dim);
    config.rope_frequencies.push_back(frequency / (*factor * (*pair_factors)[i]));
  }
  return absl::OkStatus();
}

absl::Status ReadVocab(const GgufFile& file, ModelConfig& config) {
  const GgufFile::Tensor* embedding = file.FindTensor("token_embd.weight");
  if (embedding == nullptr) return Invalid(file, "the tensor token_embd.weight is missing");
  if (embedding->shape.size() != 2 || embedding->shape[0] > kMaxVocab) {
    return Invalid(file, "the tensor token_embd.weight is not a matrix of at most ", kMaxVocab,
                   " rows");
  }
  config.vocab = static_cast<int>(embedding->shape[0]);
  const auto tokens = file.GetStrings("tokenizer.ggml.tokens");
  if (tokens.ok() && static_cast<int>((*tokens)->size()) != config.vocab) {
    return Invalid(file, "the tokenizer has ", (*tokens)->size(),
                   " tokens but token_embd.weight has ", config.vocab, " rows");
  }
  return absl::OkStatus();
}

absl::Status CheckTensors(const GgufFile& file, const ModelConfig& config) {
  std::set<std::string_view> known = {kRopeFactorsTensor};
  const std::vector<ExpectedTensor> expected = ExpectedTensors(config);
  for (const ExpectedTensor& wanted : expected) {
    known.insert(wanted.name);
    const GgufFile::Tensor* tensor = file.FindTensor(wanted.name);
    if (tensor == nullptr) return Invalid(file, "the tensor ", wanted.name, " is missing");
    if (tensor->shape != wanted.shape) {
      return Invalid(file, "the tensor ", wanted.name, " has the shape [",
                     absl::StrJoin(tensor->shape, ", "), "] instead of [",
                     absl::StrJoin(wanted.shape, ", "), "]");
    }
  }
  // Leaving a tensor out of the computation would give wrong results without a word.
  for (const GgufFile::Tensor& tensor : file.tensors()) {
    if (!known.contains(tensor.name)) {
      return Unimplemented(file, "the tensor ", tensor.name, " is not supported in ",
                           config.architecture, " models");
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config) {
  const int64_t hidden = config.hidden;
  const int64_t ffn = config.ffn;
  const int64_t q_rows = int64_t{config.heads} * config.head_dim;
  const int64_t kv_rows = int64_t{config.kv_heads} * config.head_dim;
  std::vector<ExpectedTensor> tensors;
  tensors.push_back({"token_embd.weight", {config.vocab, hidden}});
  for (int layer = 0; layer < config.layers; ++layer) {
    const auto add = [&](const char* name, std::vector<int64_t> shape) {
      tensors.push_back({absl::StrCat("blk.", layer, ".", name), std::move(shape)});
    };
    add("attn_norm.weight", {hidden});
    add("attn_q.weight", {q_rows, hidden});
    add("attn_k.weight", {kv_rows, hidden});
    add("attn_v.weight", {kv_rows, hidden});
    if (config.qkv_bias) {
      add("attn_q.bias", {q_rows});
      add("attn_k.bias", {kv_rows});
      add("attn_v.bias", {kv_rows});
    }
    add("attn_output.weight", {hidden, q_rows});
    add("ffn_norm.weight", {hidden});
    add("ffn_gate.weight", {ffn, hidden});
    add("ffn_up.weight", {ffn, hidden});
    add("ffn_down.weight", {hidden, ffn});
  }
  tensors.push_back({"output_norm.weight", {hidden}});
  if (!config.tied_embeddings) tensors.push_back({"output.weight", {config.vocab, hidden}});
  return tensors;
}

absl::StatusOr<ModelConfig> ModelConfig::FromGguf(const GgufFile& file) {
  const absl::StatusOr<const Family*> family = FindFamily(file);
  if (!family.ok()) return family.status();
  ModelConfig config;
  config.architecture = (*family)->architecture;
  config.rope_pairing = (*family)->rope_pairing;
  config.name = file.GetString("general.name")
                    .value_or(std::filesystem::path(file.path()).filename().string());

  Fields fields(file, config.architecture);
  absl::Status status = RefuseUnsupportedFeatures(file, fields);
  if (!status.ok()) return status;
  ReadSizes(fields, config);
  if (!fields.status().ok()) return fields.status();
  // A window that holds the whole context changes nothing.
  const int window = fields.Int("attention.sliding_window", 0, kMaxContext, 0);
  if (window != 0 && window < config.max_context) {
    return Unimplemented(file, "a sliding window (metadata key ",
                         fields.FullKey("attention.sliding_window"), " is ", window,
                         ") is not supported");
  }
  status = ReadHeadDim(file, fields, config);
  if (status.ok()) status = ReadRope(file, fields, config);
  if (status.ok()) status = ReadVocab(file, config);
  if (!status.ok()) return status;

  config.qkv_bias = (*family)->qkv_bias || file.FindTensor("blk.0.attn_q.bias") != nullptr;
  config.tied_embeddings = file.FindTensor("output.weight") == nullptr;
  status = CheckTensors(file, config);
  if (!status.ok()) return status;
  return config;
}

}  // namespace winnow

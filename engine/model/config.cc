#include "engine/model/config.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/model/config_limits.h"
#include "engine/model/family.h"
#include "engine/model/gguf.h"
#include "engine/model/gguf_attention.h"
#include "engine/model/gguf_mixture.h"
#include "engine/model/gguf_rope.h"
#include "engine/model/metadata_fields.h"
#include "engine/model/model_spec.h"
#include "engine/model/tensor_check.h"

namespace winnow {
namespace {

constexpr double kAnyNumber = std::numeric_limits<double>::infinity();

/// Keys whose presence with another value than zero asks for what the forward pass lacks.
constexpr std::pair<const char*, const char*> kUnsupportedFeatures[] = {
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

absl::StatusOr<const Family*> ReadFamily(const GgufFile& file) {
  const absl::StatusOr<std::string> architecture = file.GetString("general.architecture");
  if (!architecture.ok()) return absl::InvalidArgumentError(architecture.status().message());
  if (const Family* family = FindFamily(*architecture)) return family;
  return Unimplemented(file, "the model architecture \"", absl::CHexEscape(*architecture),
                       "\" is not supported; supported are ", FamilyNames());
}

absl::Status RefuseUnsupportedFeatures(const GgufFile& file, MetadataFields& fields) {
  for (const auto& [key, feature] : kUnsupportedFeatures) {
    if (fields.Float(key, -kAnyNumber, kAnyNumber, 0) != 0) {
      return Unimplemented(file, feature, " (metadata key ", fields.FullKey(key),
                           ") is not supported");
    }
  }
  return fields.status();
}

void ReadSizes(MetadataFields& fields, ModelConfig& config) {
  config.layers = fields.Int("block_count", 1, kMaxLayers);
  config.hidden = fields.Int("embedding_length", 1, kMaxWidth);
  config.ffn = fields.Int("feed_forward_length", 1, kMaxWidth);
  config.heads = fields.Int("attention.head_count", 1, kMaxHeads);
  config.kv_heads = fields.Int("attention.head_count_kv", 1, kMaxHeads, config.heads);
  config.max_context = fields.Int("context_length", 1, kMaxContext);
  config.norm_epsilon =
      static_cast<float>(fields.Float("attention.layer_norm_rms_epsilon", 1e-12, 0.1));
}

absl::Status ReadHeadDim(const GgufFile& file, MetadataFields& fields, ModelConfig& config) {
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

absl::Status ReadEmbedding(const GgufFile& file, const Family& family, const std::string& embedding,
                           ModelConfig& config) {
  const GgufFile::Tensor* tensor = file.FindTensor(embedding);
  if (tensor == nullptr) return Invalid(file, "the tensor ", embedding, " is missing");
  if (tensor->shape.size() != 2 || tensor->shape[0] > kMaxVocab) {
    return Invalid(file, "the tensor ", embedding, " is not a matrix of at most ", kMaxVocab,
                   " rows");
  }
  config.vocab = static_cast<int>(tensor->shape[0]);
  if (family.scales_embeddings) {
    config.embedding_scale = std::sqrt(static_cast<float>(config.hidden));
  }
  const auto tokens = file.GetStrings("tokenizer.ggml.tokens");
  if (tokens.ok() && static_cast<int>((*tokens)->size()) != config.vocab) {
    return Invalid(file, "the tokenizer has ", (*tokens)->size(), " tokens but ", embedding,
                   " has ", config.vocab, " rows");
  }
  return absl::OkStatus();
}

/// What a file tells by the tensors that it holds.
absl::Status ReadFromTensors(const GgufFile& file, const Family& family, ModelConfig& config) {
  // The names of all that a model may have.
  config.qkv_bias = true;
  config.output_bias = true;
  config.ffn_bias = true;
  config.tied_embeddings = false;
  const ModelSpec most = ModelSpec::Of(config);
  const BlockSpec& block = most.blocks[0];
  const auto has_bias = [&](const LinearSpec& linear) {
    return !linear.biases.empty() && file.FindTensor(linear.biases[0]) != nullptr;
  };
  config.qkv_bias = family.qkv_bias || has_bias(block.attention.qkv);
  config.output_bias = has_bias(block.attention.output);
  config.ffn_bias = has_bias(block.feed_forward.down);
  config.tied_embeddings = file.FindTensor(most.output.weights[0]) == nullptr;
  return ReadEmbedding(file, family, most.embedding, config);
}

}  // namespace

absl::StatusOr<ModelConfig> ModelConfig::FromGguf(const GgufFile& file, int context) {
  const absl::StatusOr<const Family*> found = ReadFamily(file);
  if (!found.ok()) return found.status();
  const Family& family = **found;
  ModelConfig config;
  config.architecture = family.architecture;
  config.name = file.GetString("general.name")
                    .value_or(std::filesystem::path(file.path()).filename().string());
  config.activation = family.activation;
  config.qk_norm = family.qk_norm;
  config.post_norms = family.post_norms;
  config.fused_qkv = family.fused_tensors;
  config.fused_gate_up = family.fused_tensors;

  MetadataFields fields(file, config.architecture);
  absl::Status status = RefuseUnsupportedFeatures(file, fields);
  if (!status.ok()) return status;
  ReadSizes(fields, config);
  if (!fields.status().ok()) return fields.status();
  status = ReadGgufMixture(file, fields, config);
  if (status.ok()) status = ReadHeadDim(file, fields, config);
  if (status.ok()) status = ReadGgufAttention(file, family, fields, config);
  if (status.ok()) {
    const int served = context > 0 ? std::min(context, config.max_context) : config.max_context;
    status = ReadGgufRopes(file, family, served, fields, config);
  }
  if (status.ok()) status = ReadFromTensors(file, family, config);
  if (status.ok()) status = CheckTensors(file.path(), file.Tensors(), config);
  if (!status.ok()) return status;
  return config;
}

}  // namespace winnow

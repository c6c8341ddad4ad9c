#include "engine/model/folder_config.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <system_error>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/model/config_limits.h"
#include "engine/model/family.h"
#include "engine/model/folder_rope.h"
#include "engine/model/json_fields.h"
#include "engine/model/json_file.h"
#include "kernels/expert_routes.h"

namespace winnow {
namespace {

constexpr double kMaxScale = 1e6;

/// Which layers have a sliding window where a file has no layer_types.
enum class Windows {
  kNever,
  kAlways,       ///< every layer, by sliding_window
  kWhenUsed,     ///< if use_sliding_window, the layers from max_window_layers
  kAlternating,  ///< every other layer, from the first
  kPattern,      ///< all but each sliding_window_pattern-th
};

/// A kind of model by its model_type, with what its class has where its file says nothing.
struct FolderFamily {
  std::string_view model_type;
  std::string_view architecture;  ///< in GGUF files
  Windows windows = Windows::kNever;
  bool default_window = false;  ///< of 4096, where sliding_window is neither given nor null
  bool gemma = false;
  bool attention_bias = false;    ///< files may ask for biases of attention's matrices
  bool mlp_bias = false;          ///< likewise of the feed-forward network's
  std::string_view experts = {};  ///< the key of their number
  int heads = 0, kv_heads = 0, head_dim = 0, vocab = 0, max_context = 0;  ///< 0: no default
};

constexpr FolderFamily kFamilies[] = {
    {.model_type = "llama", .architecture = "llama", .attention_bias = true, .mlp_bias = true},
    {.model_type = "mistral",
     .architecture = "llama",
     .windows = Windows::kAlways,
     .default_window = true},
    {.model_type = "mixtral",
     .architecture = "llama",
     .windows = Windows::kAlways,
     .experts = "num_local_experts"},
    {.model_type = "qwen2",
     .architecture = "qwen2",
     .windows = Windows::kWhenUsed,
     .default_window = true},
    {.model_type = "qwen3",
     .architecture = "qwen3",
     .windows = Windows::kWhenUsed,
     .default_window = true,
     .attention_bias = true,
     .head_dim = 128},
    {.model_type = "qwen3_moe",
     .architecture = "qwen3moe",
     .windows = Windows::kWhenUsed,
     .default_window = true,
     .attention_bias = true,
     .experts = "num_experts"},
    {.model_type = "phi3", .architecture = "phi3", .windows = Windows::kAlways},
    {.model_type = "gemma2",
     .architecture = "gemma2",
     .windows = Windows::kAlternating,
     .gemma = true,
     .attention_bias = true,
     .head_dim = 256},
    {.model_type = "gemma3_text",
     .architecture = "gemma3",
     .windows = Windows::kPattern,
     .gemma = true,
     .attention_bias = true,
     .heads = 8,
     .kv_heads = 4,
     .head_dim = 256,
     .vocab = 262208,
     .max_context = 131072},
};

const FolderFamily* FindFolderFamily(std::string_view model_type) {
  for (const FolderFamily& family : kFamilies) {
    if (family.model_type == model_type) return &family;
  }
  return nullptr;
}

std::string ModelTypes() {
  std::string names;
  for (const FolderFamily& family : kFamilies) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", std::string(family.model_type));
  }
  return names;
}

std::optional<int> Default(int value) {
  return value == 0 ? std::nullopt : std::optional<int>(value);
}

void ReadSizes(JsonFields& fields, const FolderFamily& family, ModelConfig& config) {
  config.layers = fields.Int("num_hidden_layers", 1, kMaxLayers);
  config.hidden = fields.Int("hidden_size", 1, kMaxWidth);
  config.ffn = fields.Int("intermediate_size", 1, kMaxWidth);
  config.heads = fields.Int("num_attention_heads", 1, kMaxHeads, Default(family.heads));
  config.kv_heads = fields.Int("num_key_value_heads", 1, kMaxHeads,
                               family.kv_heads > 0 ? family.kv_heads : config.heads);
  config.vocab = fields.Int("vocab_size", 1, kMaxVocab, Default(family.vocab));
  config.max_context =
      fields.Int("max_position_embeddings", 1, kMaxContext, Default(family.max_context));
  config.norm_epsilon = static_cast<float>(fields.Float("rms_norm_eps", 1e-12, 0.1, 1e-6));
  config.tied_embeddings = fields.Bool("tie_word_embeddings", family.gemma);
}

void ReadHeadDim(JsonFields& fields, const FolderFamily& family, ModelConfig& config) {
  if (config.heads % config.kv_heads != 0) {
    fields.Invalid(absl::StrCat("num_attention_heads ", config.heads, " cannot share ",
                                config.kv_heads, " num_key_value_heads evenly"));
  }
  const bool derived = !fields.Has("head_dim") && family.head_dim == 0;
  if (derived && config.hidden % config.heads != 0) {
    fields.Invalid(absl::StrCat("hidden_size ", config.hidden, " does not divide into ",
                                config.heads, " heads, and head_dim is missing"));
  }
  config.head_dim = derived ? config.hidden / config.heads
                            : fields.Int("head_dim", 1, kMaxHeadDim, Default(family.head_dim));
  if (config.head_dim % kHeadDimMultiple != 0 || config.head_dim > kMaxHeadDim) {
    fields.Unimplemented(absl::StrCat("head_dim ", config.head_dim,
                                      " is not supported; it must be a multiple of ",
                                      kHeadDimMultiple, " up to ", kMaxHeadDim));
  }
}

/// A key that asks for what the model's class has only where `known`.
bool ReadTrait(JsonFields& fields, const char* key, bool known) {
  const bool wanted = fields.Bool(key, false);
  if (wanted && !known) {
    fields.Unimplemented(absl::StrCat(key, " is not supported in such models"));
  }
  return wanted;
}

void ReadBiases(JsonFields& fields, const FolderFamily& family, ModelConfig& config) {
  if (ReadTrait(fields, "attention_bias", family.attention_bias)) {
    config.qkv_bias = true;
    config.output_bias = true;
  }
  config.ffn_bias = ReadTrait(fields, "mlp_bias", family.mlp_bias);
  ReadTrait(fields, "use_bidirectional_attention", false);
}

void CheckActivation(JsonFields& fields, const FolderFamily& family) {
  // Gemma's files have had both keys; the second decides.
  const char* key = family.gemma ? "hidden_activation" : "hidden_act";
  const char* wanted = family.gemma ? "gelu_pytorch_tanh" : "silu";
  const std::string name = fields.String(key, wanted);
  if (name != wanted) {
    fields.Unimplemented(absl::StrCat(key, " \"", absl::CHexEscape(name),
                                      "\" is not supported in such models; it must be \"", wanted,
                                      "\""));
  }
}

void ReadScales(JsonFields& fields, ModelConfig& config) {
  config.embedding_scale = std::sqrt(static_cast<float>(config.hidden));
  const double scalar = fields.Float("query_pre_attn_scalar", 1e-3, kMaxScale, 256);
  if (scalar != config.head_dim) config.attention_scale = static_cast<float>(1 / std::sqrt(scalar));
  config.attention_soft_cap =
      static_cast<float>(fields.Float("attn_logit_softcapping", 0, kMaxScale, 0));
  config.logit_soft_cap =
      static_cast<float>(fields.Float("final_logit_softcapping", 0, kMaxScale, 0));
}

void ReadMixture(JsonFields& fields, const FolderFamily& family, ModelConfig& config) {
  MixtureConfig& mixture = config.mixture;
  mixture.experts = fields.Int(family.experts, 1, kMaxExperts);
  mixture.chosen =
      fields.Int("num_experts_per_tok", 1, std::min(mixture.experts, kMaxChosenExperts));
  mixture.ffn = fields.Int("moe_intermediate_size", 1, kMaxWidth, config.ffn);
  if (family.architecture != "qwen3moe") return;
  mixture.normalizes = fields.Bool("norm_topk_prob", false);
  if (fields.Int("decoder_sparse_step", 1, kMaxLayers, 1) != 1) {
    fields.Unimplemented("decoder_sparse_step is not supported: all layers must have experts");
  }
  if (fields.Has("mlp_only_layers")) fields.Strings("mlp_only_layers", 0);
}

/// Which layers have a window.
std::vector<bool> WindowedLayers(JsonFields& fields, const FolderFamily& family,
                                 const ModelConfig& config) {
  std::vector<bool> windowed(config.layers);
  if (fields.Has("layer_types")) {
    const std::vector<std::string> types = fields.Strings("layer_types", windowed.size());
    for (size_t i = 0; i < windowed.size(); ++i) {
      windowed[i] = types[i] == "sliding_attention";
      if (!windowed[i] && types[i] != "full_attention") {
        fields.Unimplemented(absl::StrCat("layer_types has \"", absl::CHexEscape(types[i]),
                                          "\"; supported are full_attention and "
                                          "sliding_attention"));
      }
    }
    return windowed;
  }
  int first = 0;
  int period = config.layers + 1;  // of layers without one
  switch (family.windows) {
    case Windows::kNever:
      return windowed;
    case Windows::kAlways:
      break;
    case Windows::kWhenUsed:
      first = fields.Int("max_window_layers", 0, kMaxLayers, 28);
      break;
    case Windows::kAlternating:
      period = 2;
      break;
    case Windows::kPattern:
      period = fields.Int(fields.Has("_sliding_window_pattern") ? "_sliding_window_pattern"
                                                                : "sliding_window_pattern",
                          1, kMaxLayers, 6);
      break;
  }
  for (int i = first; i < config.layers; ++i) windowed[i] = (i + 1) % period != 0;
  return windowed;
}

void ReadWindows(JsonFields& fields, const FolderFamily& family, ModelConfig& config) {
  config.layer.resize(config.layers);
  if (family.windows == Windows::kNever) return;
  if (!fields.Has("sliding_window") && !family.gemma &&
      (fields.IsNull("sliding_window") || !family.default_window)) {
    return;
  }
  if (family.windows == Windows::kWhenUsed && !fields.Bool("use_sliding_window", false)) return;
  const int window = fields.Int("sliding_window", 1, kMaxContext, 4096);
  const std::vector<bool> windowed = WindowedLayers(fields, family, config);
  for (int i = 0; i < config.layers; ++i) {
    LayerConfig& layer = config.layer[i];
    // One that holds the whole context changes nothing.
    if (windowed[i] && window < config.max_context) layer.sliding_window = window;
    if (windowed[i] && config.ropes.size() > 1) layer.rope = 1;
  }
}

}  // namespace

absl::StatusOr<ModelConfig> ReadFolderConfig(const std::string& folder, int context) {
  const std::string path = (std::filesystem::path(folder) / "config.json").string();
  const absl::StatusOr<nlohmann::json> json = ReadJsonFile(path, kMaxConfigBytes);
  if (!json.ok()) return json.status();
  return ParseFolderConfig(path, *json, context);
}

absl::StatusOr<ModelConfig> ParseFolderConfig(const std::string& path, const nlohmann::json& json,
                                              int context) {
  absl::Status status;
  JsonFields whole(path, json, status);
  std::string model_type = whole.String("model_type", "");
  // A model that sees images, too: its text model is described within.
  const bool nested = model_type == "gemma3";
  JsonFields fields = nested ? whole.Object("text_config") : whole;
  if (nested) model_type = "gemma3_text";
  const FolderFamily* family = FindFolderFamily(model_type);
  if (!status.ok()) return status;
  if (family == nullptr || FindFamily(family->architecture) == nullptr) {
    fields.Unimplemented(absl::StrCat("model_type \"", absl::CHexEscape(model_type),
                                      "\" is not supported; supported are ", ModelTypes(),
                                      " and gemma3"));
    return status;
  }
  ModelConfig config;
  const Family& traits = *FindFamily(family->architecture);
  config.architecture = traits.architecture;
  std::error_code error;
  config.name =
      std::filesystem::absolute(path, error).lexically_normal().parent_path().filename().string();
  config.activation = traits.activation;
  config.qkv_bias = traits.qkv_bias;
  config.qk_norm = traits.qk_norm;
  config.post_norms = traits.post_norms;
  config.fused_qkv = traits.fused_tensors;
  config.fused_gate_up = traits.fused_tensors;
  ReadSizes(fields, *family, config);
  if (status.ok()) ReadBiases(fields, *family, config);
  if (status.ok()) ReadHeadDim(fields, *family, config);
  if (status.ok()) CheckActivation(fields, *family);
  if (status.ok()) ReadFolderRope(fields, context, config);
  if (status.ok() && family->gemma) ReadScales(fields, config);
  if (status.ok() && !family->experts.empty()) ReadMixture(fields, *family, config);
  if (status.ok()) ReadWindows(fields, *family, config);
  if (!status.ok()) return status;
  return config;
}

}  // namespace winnow

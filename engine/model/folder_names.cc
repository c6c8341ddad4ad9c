#include "engine/model/folder_names.h"

#include <cstddef>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace winnow {
namespace {

struct Names {
  std::string_view folder;
  std::string_view gguf;
};

constexpr Names kOutsideOfLayers[] = {
    {"embed_tokens", "token_embd"},
    {"norm", "output_norm"},
    {"lm_head", "output"},
};

constexpr Names kOfALayer[] = {
    {"input_layernorm", "attn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.qkv_proj", "attn_qkv"},
    {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"},
    {"self_attn.o_proj", "attn_output"},
    {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.gate_up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
    {"mlp.gate", "ffn_gate_inp"},
    {"block_sparse_moe.gate", "ffn_gate_inp"},
};

/// In families with norms behind their modules; tried first.
constexpr Names kOfALayerWithPostNorms[] = {
    {"post_attention_layernorm", "post_attention_norm"},
    {"pre_feedforward_layernorm", "ffn_norm"},
    {"post_feedforward_layernorm", "post_ffw_norm"},
};

/// Behind "mlp.experts.7." or "block_sparse_moe.experts.7.".
constexpr Names kOfAnExpert[] = {
    {"gate_proj", "ffn_gate_exps"}, {"up_proj", "ffn_up_exps"}, {"down_proj", "ffn_down_exps"},
    {"w1", "ffn_gate_exps"},        {"w3", "ffn_up_exps"},      {"w2", "ffn_down_exps"},
};

template <size_t kCount>
std::optional<std::string_view> Find(const Names (&names)[kCount], std::string_view folder) {
  for (const Names& entry : names) {
    if (entry.folder == folder) return entry.gguf;
  }
  return std::nullopt;
}

/// Takes a number with a dot behind it from the front of `text`.
std::optional<int> TakeNumber(std::string_view& text) {
  const size_t dot = text.find('.');
  int number = 0;
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string digits(text.substr(0, dot));
  // One spelling for each number, so that no two tensors get one name.
  if (!absl::SimpleAtoi(digits, &number) || number < 0 || absl::StrCat(number) != digits) {
    return std::nullopt;
  }
  text.remove_prefix(dot + 1);
  return number;
}

bool TakePrefix(std::string_view prefix, std::string_view& text) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

/// What is within a layer, without ".weight" or ".bias".
std::optional<FolderName> TranslateInLayer(std::string_view name, bool post_norms) {
  if (TakePrefix("mlp.experts.", name) || TakePrefix("block_sparse_moe.experts.", name)) {
    const std::optional<int> expert = TakeNumber(name);
    const std::optional<std::string_view> gguf = Find(kOfAnExpert, name);
    if (!expert || !gguf) return std::nullopt;
    return FolderName{std::string(*gguf), *expert};
  }
  std::optional<std::string_view> gguf;
  if (post_norms) gguf = Find(kOfALayerWithPostNorms, name);
  if (!gguf) gguf = Find(kOfALayer, name);
  if (!gguf) return std::nullopt;
  return FolderName{std::string(*gguf)};
}

}  // namespace

std::optional<FolderName> TranslateFolderName(std::string_view name, bool post_norms) {
  std::string_view end;
  for (const std::string_view candidate : {".weight", ".bias"}) {
    if (name.ends_with(candidate)) end = candidate;
  }
  name.remove_suffix(end.size());
  // Of models that see images, whose text model stands within.
  if (!TakePrefix("model.language_model.", name) && !TakePrefix("language_model.model.", name) &&
      !TakePrefix("model.", name)) {
    TakePrefix("language_model.", name);
  }
  if (end.empty()) return std::nullopt;
  if (!TakePrefix("layers.", name)) {
    const std::optional<std::string_view> gguf = Find(kOutsideOfLayers, name);
    if (!gguf) return std::nullopt;
    return FolderName{absl::StrCat(std::string(*gguf), std::string(end))};
  }
  const std::optional<int> layer = TakeNumber(name);
  if (!layer) return std::nullopt;
  std::optional<FolderName> in_layer = TranslateInLayer(name, post_norms);
  if (!in_layer) return std::nullopt;
  in_layer->name = absl::StrCat("blk.", *layer, ".", in_layer->name, std::string(end));
  return in_layer;
}

bool IsLeftOut(std::string_view name) {
  return name.ends_with(".rotary_emb.inv_freq") || name.starts_with("vision_tower.") ||
         name.starts_with("multi_modal_projector.") || name.starts_with("model.vision_tower.") ||
         name.starts_with("model.multi_modal_projector.");
}

}  // namespace winnow

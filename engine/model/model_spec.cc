#include "engine/model/model_spec.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace winnow {
namespace {

/// Lists tensors as their names are put into place, so that none is named but not listed.
class TensorList {
 public:
  /// Names that follow begin with this.
  void set_prefix(std::string prefix) { prefix_ = std::move(prefix); }

  /// Adds a tensor and returns its name.
  std::string Add(const char* name, std::vector<int64_t> shape) {
    tensors_.push_back({absl::StrCat(prefix_, name), std::move(shape)});
    return tensors_.back().name;
  }

  std::vector<TensorSpec> Finish() && { return std::move(tensors_); }

 private:
  std::string prefix_;
  std::vector<TensorSpec> tensors_;
};

LinearSpec ListQkv(const ModelConfig& config, TensorList& list) {
  const int64_t hidden = config.hidden;
  const int64_t q_rows = int64_t{config.heads} * config.head_dim;
  const int64_t kv_rows = int64_t{config.kv_heads} * config.head_dim;
  LinearSpec spec;
  const auto add = [&](const char* weight, const char* bias, int64_t rows) {
    spec.weights.push_back(list.Add(weight, {rows, hidden}));
    if (config.qkv_bias) spec.biases.push_back(list.Add(bias, {rows}));
  };
  if (config.fused_qkv) {
    add("attn_qkv.weight", "attn_qkv.bias", q_rows + 2 * kv_rows);
  } else {
    add("attn_q.weight", "attn_q.bias", q_rows);
    add("attn_k.weight", "attn_k.bias", kv_rows);
    add("attn_v.weight", "attn_v.bias", kv_rows);
  }
  return spec;
}

AttentionSpec ListAttention(const ModelConfig& config, TensorList& list) {
  const int64_t hidden = config.hidden;
  const int64_t q_rows = int64_t{config.heads} * config.head_dim;
  AttentionSpec spec;
  spec.norm = list.Add("attn_norm.weight", {hidden});
  spec.qkv = ListQkv(config, list);
  if (config.qk_norm) {
    spec.query_norm = list.Add("attn_q_norm.weight", {config.head_dim});
    spec.key_norm = list.Add("attn_k_norm.weight", {config.head_dim});
  }
  spec.output.weights = {list.Add("attn_output.weight", {hidden, q_rows})};
  if (config.output_bias) spec.output.biases = {list.Add("attn_output.bias", {hidden})};
  if (config.post_norms) spec.post_norm = list.Add("post_attention_norm.weight", {hidden});
  return spec;
}

FeedForwardSpec ListFeedForward(const ModelConfig& config, TensorList& list) {
  const int64_t hidden = config.hidden;
  const int64_t ffn = config.ffn;
  FeedForwardSpec spec;
  spec.norm = list.Add("ffn_norm.weight", {hidden});
  const auto add = [&](const char* weight, const char* bias, int64_t rows, int64_t columns,
                       LinearSpec& linear) {
    linear.weights.push_back(list.Add(weight, {rows, columns}));
    if (config.ffn_bias) linear.biases.push_back(list.Add(bias, {rows}));
  };
  if (config.fused_gate_up) {
    add("ffn_up.weight", "ffn_up.bias", 2 * ffn, hidden, spec.gate_up);
  } else {
    add("ffn_gate.weight", "ffn_gate.bias", ffn, hidden, spec.gate_up);
    add("ffn_up.weight", "ffn_up.bias", ffn, hidden, spec.gate_up);
  }
  add("ffn_down.weight", "ffn_down.bias", hidden, ffn, spec.down);
  if (config.post_norms) spec.post_norm = list.Add("post_ffw_norm.weight", {hidden});
  return spec;
}

ExpertSpec ListExperts(const ModelConfig& config, TensorList& list) {
  const int64_t experts = config.mixture.experts;
  const int64_t hidden = config.hidden;
  const int64_t ffn = config.mixture.ffn;
  ExpertSpec spec;
  spec.norm = list.Add("ffn_norm.weight", {hidden});
  spec.router.weights = {list.Add("ffn_gate_inp.weight", {experts, hidden})};
  spec.gate_up = {list.Add("ffn_gate_exps.weight", {experts, ffn, hidden}),
                  list.Add("ffn_up_exps.weight", {experts, ffn, hidden})};
  spec.down = {list.Add("ffn_down_exps.weight", {experts, hidden, ffn})};
  return spec;
}

}  // namespace

ModelSpec ModelSpec::Of(const ModelConfig& config) {
  const int64_t hidden = config.hidden;
  TensorList list;
  ModelSpec spec;
  spec.embedding = list.Add("token_embd.weight", {config.vocab, hidden});
  for (int layer = 0; layer < config.layers; ++layer) {
    list.set_prefix(absl::StrCat("blk.", layer, "."));
    BlockSpec& block = spec.blocks.emplace_back();
    block.attention = ListAttention(config, list);
    if (config.mixture.experts > 0) {
      block.experts = ListExperts(config, list);
    } else {
      block.feed_forward = ListFeedForward(config, list);
    }
  }
  list.set_prefix("");
  spec.output_norm = list.Add("output_norm.weight", {hidden});
  spec.output.weights = {
      config.tied_embeddings ? spec.embedding : list.Add("output.weight", {config.vocab, hidden})};
  spec.tensors = std::move(list).Finish();
  return spec;
}

}  // namespace winnow

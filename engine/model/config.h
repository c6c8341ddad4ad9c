#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/activation.h"
#include "kernels/rope.h"

namespace winnow {

class GgufFile;

/// How some layers rotate queries and keys.
struct RopeConfig {
  RopePairing pairing = RopePairing::kAdjacent;
  int dim = 0;  ///< dimensions of a head that are rotated, from the first
  /// Frequency of each rotated pair in radians per position: [dim / 2]. Scaling (rope_scaling.h) is
  /// folded in.
  std::vector<double> frequencies;
  double magnitude = 1;  ///< of what has been rotated, by what it was (YaRN, longrope)
  // What people ask for; frequencies and magnitude say it all.
  double base = 0;      ///< what frequencies are powers of, before scaling
  std::string scaling;  ///< the kind and its factor, or "none"
};

/// In what a layer differs from others of its model.
struct LayerConfig {
  int sliding_window = 0;  ///< positions that a token sees, with its own; 0: all before it
  int rope = 0;            ///< which of ModelConfig::ropes
};

/// A mixture of experts in place of one feed-forward network.
struct MixtureConfig {
  int experts = 0;         ///< of each layer; 0: there is no mixture
  int chosen = 0;          ///< for each token
  int ffn = 0;             ///< width of an expert
  bool normalizes = true;  ///< weights of the chosen ones are made to sum up to 1
};

/// Everything that the forward pass needs to know of a model: sizes, and in what its family differs
/// from others (family.h).
struct ModelConfig {
  std::string architecture;  ///< "llama", "qwen2", ...
  std::string name;          ///< for people: general.name, else the file's name
  int layers = 0;
  int hidden = 0;    ///< width of the residual stream
  int ffn = 0;       ///< width of the feed-forward network
  int heads = 0;     ///< query heads
  int kv_heads = 0;  ///< key and value heads; divides heads
  int head_dim = 0;
  int vocab = 0;
  int max_context = 0;  ///< tokens, as trained
  float norm_epsilon = 0;

  std::vector<RopeConfig> ropes;   ///< at least one
  std::vector<LayerConfig> layer;  ///< [layers]

  Activation activation = Activation::kSilu;  ///< of the feed-forward network's gate
  float embedding_scale = 1;
  float attention_scale = 0;     ///< of q . k; 0: 1 / sqrt(head_dim)
  float attention_soft_cap = 0;  ///< scores become cap tanh(score / cap); 0: they stay
  float logit_soft_cap = 0;      ///< the same of the output's logits
  MixtureConfig mixture;

  bool qkv_bias = false;       ///< Qwen2
  bool output_bias = false;    ///< of attention's output matrix
  bool ffn_bias = false;       ///< of the feed-forward network's matrices
  bool qk_norm = false;        ///< heads of queries and keys are normed before RoPE: Qwen3, Gemma 3
  bool post_norms = false;     ///< what modules compute is normed before it is added: Gemma
  bool fused_qkv = false;      ///< queries, keys and values are one matrix: Phi-3
  bool fused_gate_up = false;  ///< gate and up are one matrix, ffn_up: Phi-3
  bool tied_embeddings = false;  ///< no output.weight: the embedding table is the output matrix

  /// Reads and checks the configuration, and that the file holds exactly the tensors of its spec
  /// (model_spec.h). Sequences will have at most `context` tokens, 0: as many as the model was
  /// trained for; models with RoPE factors for short and for long contexts have the ones for it.
  /// INVALID_ARGUMENT names the key or the tensor that is missing or otherwise
  /// wrong; UNIMPLEMENTED names a feature of the family that Winnow lacks.
  static absl::StatusOr<ModelConfig> FromGguf(const GgufFile& file, int context = 0);
};

}  // namespace winnow

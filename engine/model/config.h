#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/rope.h"

namespace winnow {

class GgufFile;

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

  RopePairing rope_pairing = RopePairing::kAdjacent;
  int rope_dim = 0;  ///< dimensions of a head that are rotated, from the first
  /// Frequency of each rotated pair in radians per position: [rope_dim / 2]. Scaling (linear,
  /// Llama-3 frequency factors) is folded in.
  std::vector<double> rope_frequencies;

  bool qkv_bias = false;         ///< Qwen2
  bool tied_embeddings = false;  ///< no output.weight: the embedding table is the output matrix

  /// Reads and checks the configuration, and that the file holds exactly the tensors of its spec
  /// (model_spec.h). INVALID_ARGUMENT names the key or the tensor that is missing or otherwise
  /// wrong; UNIMPLEMENTED names a feature of the family that Winnow lacks (MoE, sliding windows,
  /// logit soft caps, ...).
  static absl::StatusOr<ModelConfig> FromGguf(const GgufFile& file);

  /// Bytes of keys and values, fp16, that one token keeps in the KV cache.
  int64_t kv_bytes_per_token() const {
    return int64_t{2} * layers * kv_heads * head_dim * static_cast<int64_t>(sizeof(uint16_t));
  }
};

}  // namespace winnow

#pragma once

#include <string>
#include <string_view>

#include "kernels/activation.h"
#include "kernels/rope.h"

namespace winnow {

/// What tells one model family from another: a row of the table in family.cc. A trait in which a
/// new family differs is a column here, what ModelSpec::Of makes of it (tensors, in which layers),
/// and a few lines of the module that computes it.
struct Family {
  std::string_view architecture;  ///< general.architecture in GGUF files
  RopePairing rope_pairing = RopePairing::kHalves;
  Activation activation = Activation::kSilu;

  bool qkv_bias = false;           ///< always there; families without may still have it
  bool qk_norm = false;            ///< heads of queries and keys are normed
  bool post_norms = false;         ///< what modules compute is normed before it is added
  bool fused_tensors = false;      ///< one matrix of Q, K and V, and one of gate and up
  bool scales_embeddings = false;  ///< by the root of their width

  bool has_windows = false;    ///< models may state a sliding window
  bool lists_windows = false;  ///< they may if they list the layers that have it
  int default_window = 0;      ///< of a model that states none
  int full_every = 0;  ///< of so many layers the last sees everything; 0: all have the window
  double window_rope_base =
      0;  ///< by which layers with the window rotate, unscaled; 0: as others do

  float attention_soft_cap = 0;  ///< of a model that states none; 0: none
  float logit_soft_cap = 0;      ///< likewise
  /// The model of so many layers scales scores by the root of hidden / heads instead of head_dim,
  /// which its files do not state: Gemma's 27B.
  int width_scaled_layers = 0;
};

/// The row of an architecture; null when there is none.
const Family* FindFamily(std::string_view architecture);

/// All architectures, for a message: "llama, qwen2 and qwen3".
std::string FamilyNames();

}  // namespace winnow

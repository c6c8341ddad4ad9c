#include "engine/model/family.h"

#include <iterator>

#include "absl/strings/str_cat.h"

namespace winnow {
namespace {

constexpr Family kFamilies[] = {
    // Llama, Mistral and what else has their shape.
    {.architecture = "llama", .rope_pairing = RopePairing::kAdjacent, .has_windows = true},
    {.architecture = "qwen2", .qkv_bias = true, .lists_windows = true},
    {.architecture = "qwen3", .qk_norm = true, .lists_windows = true},
    {.architecture = "qwen3moe", .qk_norm = true, .lists_windows = true},
    {.architecture = "phi3", .fused_tensors = true, .has_windows = true},
    {.architecture = "gemma2",
     .activation = Activation::kGeluTanh,
     .post_norms = true,
     .scales_embeddings = true,
     .has_windows = true,
     .default_window = 4096,
     .full_every = 2,
     .attention_soft_cap = 50,
     .logit_soft_cap = 30,
     .width_scaled_layers = 46},
    {.architecture = "gemma3",
     .activation = Activation::kGeluTanh,
     .qk_norm = true,
     .post_norms = true,
     .scales_embeddings = true,
     .has_windows = true,
     .full_every = 6,
     .window_rope_base = 10000,
     .width_scaled_layers = 62},
};

}  // namespace

const Family* FindFamily(std::string_view architecture) {
  for (const Family& family : kFamilies) {
    if (family.architecture == architecture) return &family;
  }
  return nullptr;
}

std::string FamilyNames() {
  std::string names;
  for (const Family& family : kFamilies) {
    const bool last = &family + 1 == std::end(kFamilies);
    absl::StrAppend(&names,
                    names.empty() ? ""
                    : last        ? " and "
                                  : ", ",
                    std::string(family.architecture));
  }
  return names;
}

}  // namespace winnow

#pragma once

#include <string>
#include <string_view>

#include "kernels/rope.h"

namespace winnow {

/// What tells one model family from another: a row of the table in family.cc. A trait in which a
/// new family differs is a column here, what ModelSpec::Of makes of it (tensors, in which layers),
/// and a few lines of the module that computes it.
struct Family {
  std::string_view architecture;  ///< general.architecture in GGUF files
  RopePairing rope_pairing;
  bool qkv_bias;  ///< always there; families without may still have it
};

/// The row of an architecture; null when there is none.
const Family* FindFamily(std::string_view architecture);

/// All architectures, for a message: "llama and qwen2".
std::string FamilyNames();

}  // namespace winnow

#include "engine/model/family.h"

#include "absl/strings/str_cat.h"

namespace winnow {
namespace {

constexpr Family kFamilies[] = {
    {.architecture = "llama", .rope_pairing = RopePairing::kAdjacent, .qkv_bias = false},
    {.architecture = "qwen2", .rope_pairing = RopePairing::kHalves, .qkv_bias = true},
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
    absl::StrAppend(&names, names.empty() ? "" : " and ", std::string(family.architecture));
  }
  return names;
}

}  // namespace winnow

#pragma once

#include <string>

#include "absl/strings/str_cat.h"

namespace winnow {

// Bearer tokens: clients that behave well are another holder than those that do not.
inline constexpr char kGoodToken[] = "well-behaved";
inline constexpr char kBadToken[] = "badly-behaved";

/// The file of both for --auth-tokens. All bad clients together may have so many requests at a
/// time. The digests are what `printf %s TOKEN | sha256sum` prints.
inline std::string TokenFile(int bad_requests) {
  return absl::StrCat(
      "good: sha256=dafa98fa5f138d9e6b95cdc8197df78edbdc1a75a930e31cedb242a1d49b9011\n",
      "bad: sha256=99879a9f98da9f837218a9140db1bfe3bfe4fe44ed778cb0f323ff28abd67da7 requests=",
      bad_requests, "\n");
}

}  // namespace winnow

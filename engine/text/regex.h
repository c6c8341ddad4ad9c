#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"

namespace winnow {

/// A regular expression of a tokenizer.json, written for Oniguruma and matched by ICU: `\s` and
/// `\w` are taken as Oniguruma means them. Immutable, and safe to use from several threads.
class Regex {
 public:
  static constexpr size_t kMaxPatternBytes = 4096;

  /// INVALID_ARGUMENT with ICU's word for what is wrong, or when the pattern is too long.
  static absl::StatusOr<std::shared_ptr<const Regex>> Compile(std::string_view pattern);

  ~Regex();
  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;

  /// Calls `visit` with the bytes of each match, from left to right and never overlapping, until
  /// that returns false. Matches may be empty, but not where the match before ends. An expression
  /// may take exponential time, or a stack as large as the text: returns false, without the matches
  /// in what is left, once matching has taken more steps than grow with the text's length, or a
  /// stack of 8 MB.
  bool ForEachMatch(std::string_view text,
                    absl::FunctionRef<bool(size_t begin, size_t end)> visit) const;

 private:
  struct Compiled;  ///< keeps ICU's headers out of this one
  explicit Regex(std::unique_ptr<const Compiled> compiled);

  const std::unique_ptr<const Compiled> compiled_;
};

}  // namespace winnow

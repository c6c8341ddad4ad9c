#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/session/call_status.h"

namespace winnow {

/// Collects violations of one request: at most one or two for each field.
class Checker {
 public:
  void Violation(std::string field, std::string description) {
    violations_.push_back({std::move(field), Shortened(std::move(description))});
  }

  /// NaN fails every check.
  template <typename T>
  void InRange(const char* field, T value, T min, T max) {
    if (value >= min && value <= max) return;
    Violation(field, absl::StrCat("must be from ", min, " to ", max, ", is ", value));
  }

  void Check(const char* field, bool valid, const char* rule, float value) {
    if (!valid) Violation(field, absl::StrCat(rule, ", is ", value));
  }

  void AtMost(const char* field, int count, int max, const char* what) {
    if (count > max) Violation(field, absl::StrCat("has ", count, " ", what, ", most are ", max));
  }

  /// One violation for the first unknown token: one for each of a million tells no more.
  template <typename Tokens>
  void KnownTokens(const char* field, const Tokens& tokens, int32_t vocab_size) {
    for (int i = 0; i < tokens.size(); ++i) {
      if (tokens[i] >= 0 && tokens[i] < vocab_size) continue;
      Violation(absl::StrCat(field, "[", i, "]"),
                absl::StrCat("must be a token id from 0 to ", vocab_size - 1, ", is ", tokens[i]));
      return;
    }
  }

  size_t size() const { return violations_.size(); }
  std::vector<FieldViolation> Take() { return std::move(violations_); }

 private:
  std::vector<FieldViolation> violations_;
};

}  // namespace winnow

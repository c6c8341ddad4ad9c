#include "engine/text/regex.h"

#include <unicode/regex.h>
#include <unicode/unistr.h>
#include <unicode/utext.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace winnow {
namespace {

constexpr int32_t kStackBytes = 8 << 20;
/// What ICU calls back after, in operations of its matching machine.
constexpr int64_t kOperationsPerCall = 10000;
/// Expressions of published tokenizers take some ten operations a byte.
constexpr int64_t kOperationsPerByte = 256;
constexpr int64_t kLeastOperations = 1'000'000;

/// The pattern with the classes that the libraries disagree on spelled out. ICU's \s lacks U+000B
/// and U+0085, its \w has more than letters, marks, digits and connectors.
std::string SpellOutClasses(std::string_view pattern) {
  std::string spelled;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '\\' || i + 1 == pattern.size()) {
      spelled.push_back(pattern[i]);
      continue;
    }
    switch (pattern[++i]) {
      case 's':
        spelled.append("\\p{White_Space}");
        break;
      case 'S':
        spelled.append("\\P{White_Space}");
        break;
      case 'w':
        spelled.append("[\\p{L}\\p{M}\\p{Nd}\\p{Pc}]");
        break;
      case 'W':
        spelled.append("[^\\p{L}\\p{M}\\p{Nd}\\p{Pc}]");
        break;
      default:
        spelled.push_back('\\');
        spelled.push_back(pattern[i]);
    }
  }
  return spelled;
}

/// Called after every kOperationsPerCall: false ends matching.
UBool TakeOperations(const void* left, int32_t /*steps*/) {
  int64_t& operations = *static_cast<int64_t*>(const_cast<void*>(left));
  operations -= kOperationsPerCall;
  return operations > 0;
}

}  // namespace

struct Regex::Compiled {
  std::unique_ptr<const icu::RegexPattern> pattern;
};

Regex::Regex(std::unique_ptr<const Compiled> compiled) : compiled_(std::move(compiled)) {}
Regex::~Regex() = default;

absl::StatusOr<std::shared_ptr<const Regex>> Regex::Compile(std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("an expression has ", pattern.size(), " bytes, more than ", kMaxPatternBytes));
  }
  UErrorCode error = U_ZERO_ERROR;
  UParseError place;
  std::unique_ptr<const icu::RegexPattern> compiled(icu::RegexPattern::compile(
      icu::UnicodeString::fromUTF8(SpellOutClasses(pattern)), 0, place, error));
  if (U_FAILURE(error) || compiled == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("an expression can't be compiled: ", u_errorName(error)));
  }
  auto holder = std::make_unique<Compiled>();
  holder->pattern = std::move(compiled);
  return std::shared_ptr<const Regex>(new Regex(std::move(holder)));
}

bool Regex::ForEachMatch(std::string_view text,
                         absl::FunctionRef<bool(size_t, size_t)> visit) const {
  UErrorCode error = U_ZERO_ERROR;
  const std::unique_ptr<icu::RegexMatcher> matcher(compiled_->pattern->matcher(error));
  if (U_FAILURE(error)) return false;
  UText* input = utext_openUTF8(nullptr, text.data(), static_cast<int64_t>(text.size()), &error);
  if (U_FAILURE(error)) return false;
  matcher->setStackLimit(kStackBytes, error);
  int64_t operations = kLeastOperations + kOperationsPerByte * static_cast<int64_t>(text.size());
  matcher->setMatchCallback(TakeOperations, &operations, error);
  matcher->reset(input);
  int64_t last_end = -1;
  while (U_SUCCESS(error) && matcher->find(error) && U_SUCCESS(error)) {
    const int64_t begin = matcher->start64(error), end = matcher->end64(error);
    if (begin == end && begin == last_end) continue;
    last_end = end;
    if (!visit(static_cast<size_t>(begin), static_cast<size_t>(end))) break;
  }
  utext_close(input);
  return U_SUCCESS(error);
}

}  // namespace winnow

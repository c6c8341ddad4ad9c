#pragma once

#include <optional>
#include <string_view>

#include "absl/functional/function_ref.h"

namespace winnow {

/// How a byte-level BPE model splits text into words before it merges bytes. The names are those of
/// the models that the patterns are known by.
enum class WordPattern { kGpt2, kLlama3, kQwen2, kTekken, kGpt4o };

/// The pattern that a regular expression stands for, written exactly as the models publish it.
std::optional<WordPattern> FindWordPattern(std::string_view expression);

/// Splits text into words, which together are the text, and calls `visit` with each until that
/// returns false, which it then returns. Bytes that are not UTF-8 count as symbols, as punctuation
/// does. Takes linear time.
bool ForEachWord(WordPattern pattern, std::string_view text,
                 absl::FunctionRef<bool(std::string_view word)> visit);

}  // namespace winnow

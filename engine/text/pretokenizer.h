#pragma once

#include <optional>
#include <string_view>

#include "absl/functional/function_ref.h"

namespace winnow {

/// How a byte-level BPE model splits text into words before it merges bytes. The names are those of
/// the models that the patterns are known by.
enum class WordPattern { kGpt2, kSmolLm, kLlama3, kQwen2 };

/// What `tokenizer.ggml.pre` stands for.
struct Pretokenizer {
  WordPattern pattern;
  bool normalizes_nfc = false;  ///< text is brought to Unicode normalisation form C first
  bool ignores_merges = false;  ///< a word that is a token becomes it, whatever the merges say
  bool adds_bos = false;        ///< default for files that don't say
};

/// The pre-tokenizer of that name, or nothing if it is not known.
std::optional<Pretokenizer> FindPretokenizer(std::string_view name);

/// Splits text into words, which together are the text, and calls `visit` with each until that
/// returns false. Bytes that are not UTF-8 count as symbols, as punctuation does. Takes linear
/// time.
void ForEachWord(WordPattern pattern, std::string_view text,
                 absl::FunctionRef<bool(std::string_view word)> visit);

}  // namespace winnow

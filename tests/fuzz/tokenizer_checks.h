#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/check.h"
#include "engine/text/tokenizer.h"
#include "engine/text/vocabulary.h"
#include "tests/engine/text/utf8.h"

namespace winnow {

/// Asserts what holds of every vocabulary that a reader has accepted.
inline void CheckVocabulary(const Vocabulary& vocabulary) {
  const size_t size = vocabulary.tokens.size();
  WINNOW_CHECK(size > 0 && vocabulary.types.size() == size && vocabulary.bytes.size() == size);
  WINNOW_CHECK(vocabulary.scores.empty() || vocabulary.scores.size() == size);
  const auto tokenizer = Tokenizer::Create(vocabulary);
  const std::vector<std::string> texts = {
      "ab aab <s></s>  x", "It's 1234 \u6F22\u00e9e\u0301\n\n A\xff", std::string(300, 'a'),
      vocabulary.tokens[size / 2] + " " + vocabulary.tokens[size - 1]};
  for (const std::string& text : texts) {
    for (const bool parse_special : {false, true}) {
      const TextSegment segment = {text, parse_special};
      const std::vector<int32_t> tokens = tokenizer->Encode(text, parse_special, false);
      WINNOW_CHECK(tokenizer->LeastTokens({&segment, 1}) <= tokens.size());
      Detokenizer detokenizer(*tokenizer, /*render_special=*/true, /*at_text_start=*/true);
      for (const int32_t token : tokens) {
        WINNOW_CHECK(token >= 0 && static_cast<size_t>(token) < size);
        WINNOW_CHECK(IsValidUtf8(detokenizer.Append(token)));
      }
    }
  }
}

}  // namespace winnow

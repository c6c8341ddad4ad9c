#pragma once

#include <optional>
#include <string_view>

#include "engine/text/normalizer.h"
#include "engine/text/pretokenizer.h"

namespace winnow {

/// What a name in `tokenizer.ggml.pre` stands for.
struct NamedPretokenizer {
  Normalizer normalizer;
  Pretokenizer splits;
  bool ignores_merges = false;  ///< a word that is a token becomes it, whatever the merges say
  bool adds_bos = false;        ///< default for files that don't say
};

/// The pre-tokenizer of that name, or nothing if it is not known.
std::optional<NamedPretokenizer> FindPretokenizer(std::string_view name);

}  // namespace winnow

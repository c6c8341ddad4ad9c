#pragma once

#include <string>
#include <vector>

#include "engine/text/json_value.h"
#include "engine/text/normalizer.h"
#include "engine/text/pretokenizer.h"

namespace winnow {

/// Adds what `normalizer` of a tokenizer.json says: NFC, NFD, NFKC, NFKD, Lowercase, Replace,
/// Prepend, Strip, StripAccents, and sequences of them. Faults are noted in `json`.
void ReadNormalizer(const JsonValue& json, Normalizer& normalizer);

/// What `pre_tokenizer` says.
struct JsonPretokenizer {
  Pretokenizer splits;
  bool byte_level = false;  ///< words are bytes
  std::string types;        ///< as the file names them, for people
};

/// Reads ByteLevel, Split, Digits, Metaspace, Whitespace, WhitespaceSplit, Punctuation, and
/// sequences of them.
JsonPretokenizer ReadPretokenizer(const JsonValue& json);

/// What `decoder` says of the bytes of tokens.
struct JsonDecoder {
  bool byte_level = false;                        ///< spellings are of bytes
  bool byte_fallback = false;                     ///< "<0x0A>" stands for the byte 10
  std::vector<Normalizer::Replace> replacements;  ///< in the spelling of each token
  bool strips_leading_space = false;              ///< of a whole text
};

/// Reads ByteLevel, Metaspace, Replace (of a string), ByteFallback, Fuse, Strip (of at most one
/// leading space of a whole text), and sequences of them.
JsonDecoder ReadDecoder(const JsonValue& json);

}  // namespace winnow

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "engine/text/json_value.h"
#include "engine/text/vocabulary.h"

namespace winnow {

/// An entry of `added_tokens` or `added_tokens_decoder`.
struct AddedTokenEntry {
  int64_t id = -1;  ///< not checked
  std::string content;
  bool special = false;
  bool normalized = false;  ///< it is found in the normalised text, spelled as that would be
  AddedToken marks = {};
};

/// Reads an entry but for its id.
AddedTokenEntry ReadAddedToken(const JsonValue& json);

/// Ids are below this: few have no token, and a large one must not take memory.
inline size_t MaxTokens(size_t listed) { return 4 * listed + 1024; }

/// Gives a token what an entry says: special ones become control tokens, others user-defined. Of a
/// token that is new, or special, the bytes are the content's. Notes a fault in `json`, the entry's
/// id, if that is no id below `max_tokens`, or another token's. REQUIRES: the vocabulary's
/// normaliser is known.
void PlaceAddedToken(const AddedTokenEntry& entry, size_t max_tokens, const JsonValue& json,
                     Vocabulary& vocabulary);

}  // namespace winnow

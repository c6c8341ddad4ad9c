#include "engine/text/added_tokens.h"

#include "absl/strings/str_cat.h"

namespace winnow {

AddedTokenEntry ReadAddedToken(const JsonValue& json) {
  AddedTokenEntry entry;
  entry.content = json["content"].String();
  entry.special = json["special"].Bool(false);
  entry.normalized = json["normalized"].Bool(!entry.special);
  entry.marks.single_word = json["single_word"].Bool(false);
  entry.marks.strips_left = json["lstrip"].Bool(false);
  entry.marks.strips_right = json["rstrip"].Bool(false);
  return entry;
}

void PlaceAddedToken(const AddedTokenEntry& entry, size_t max_tokens, const JsonValue& json,
                     Vocabulary& vocabulary) {
  if (entry.content.empty()) return;
  if (entry.id < 0 || entry.id >= static_cast<int64_t>(max_tokens)) {
    return json.Fault(absl::StrCat("is ", entry.id, ", which is no token id below ", max_tokens));
  }
  const auto index = static_cast<size_t>(entry.id);
  if (index >= vocabulary.tokens.size()) {
    vocabulary.tokens.resize(index + 1);
    vocabulary.bytes.resize(index + 1);
    vocabulary.types.resize(index + 1, TokenType::kUnused);
    if (!vocabulary.scores.empty()) vocabulary.scores.resize(index + 1, vocabulary.scores[0]);
  }
  std::string& token = vocabulary.tokens[index];
  TokenType& type = vocabulary.types[index];
  if (type != TokenType::kUnused && token != entry.content) {
    return json.Fault(absl::StrCat("is ", entry.id, ", as '", token, "' is"));
  }
  if (entry.special || type == TokenType::kUnused) vocabulary.bytes[index] = entry.content;
  token = entry.content;
  if (type != TokenType::kUnknown) {
    type = entry.special ? TokenType::kControl : TokenType::kUserDefined;
  }
  AddedToken marks = entry.marks;
  if (entry.normalized) marks.normalized = vocabulary.normalizer.Apply(entry.content);
  vocabulary.added.insert_or_assign(static_cast<int32_t>(entry.id), std::move(marks));
}

}  // namespace winnow

#include "engine/text/vocabulary.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/text/markers.h"
#include "engine/text/named_pretokenizer.h"
#include "engine/text/spelling.h"

namespace winnow {
namespace {

constexpr std::string_view kPrefix = "tokenizer.ggml.";

std::string Key(std::string_view name) { return std::string(kPrefix).append(name); }

absl::Status Fault(std::string_view name, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(Key(name), " ", what, "."));
}

/// The value of an optional key: `fallback` when the file doesn't have it.
template <typename T, typename U>
absl::StatusOr<T> ValueOr(absl::StatusOr<U> value, T fallback) {
  if (value.ok()) return T(*std::move(value));
  if (absl::IsNotFound(value.status())) return fallback;
  return value.status();
}

absl::StatusOr<int32_t> TokenId(const GgufFile& file, std::string_view name, size_t vocab_size) {
  absl::StatusOr<int64_t> id = ValueOr<int64_t>(file.GetInt(Key(name)), -1);
  if (!id.ok()) return id.status();
  // Files say "none" as -1 of either 32-bit type.
  if (*id == -1 || *id == std::numeric_limits<uint32_t>::max()) return -1;
  if (*id < 0 || *id >= static_cast<int64_t>(vocab_size)) {
    return Fault(name,
                 absl::StrCat("is ", *id, ", but the vocabulary has ", vocab_size, " tokens"));
  }
  return static_cast<int32_t>(*id);
}

absl::Status ReadTypes(const GgufFile& file, Vocabulary& vocabulary) {
  vocabulary.types.assign(vocabulary.tokens.size(), TokenType::kNormal);
  absl::StatusOr<const std::vector<int64_t>*> types = file.GetInts(Key("token_type"));
  if (absl::IsNotFound(types.status())) {
    if (vocabulary.model != "llama") return absl::OkStatus();
    for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
      if (ParseByteToken(vocabulary.tokens[i])) vocabulary.types[i] = TokenType::kByte;
    }
    return absl::OkStatus();
  }
  if (!types.ok()) return types.status();
  if ((*types)->size() != vocabulary.tokens.size()) {
    return Fault("token_type", absl::StrCat("has ", (*types)->size(), " entries, the vocabulary ",
                                            vocabulary.tokens.size()));
  }
  for (size_t i = 0; i < (*types)->size(); ++i) {
    const int64_t type = (**types)[i];
    if (type < 0 || type > 6) {
      return Fault("token_type", absl::StrCat("has the unknown type ", type, " at token ", i));
    }
    // 0 is "undefined", which nothing may produce.
    vocabulary.types[i] = type == 0 ? TokenType::kUnused : static_cast<TokenType>(type);
  }
  return absl::OkStatus();
}

absl::Status ReadScores(const GgufFile& file, Vocabulary& vocabulary) {
  absl::StatusOr<const std::vector<double>*> scores = file.GetFloats(Key("scores"));
  if (absl::IsNotFound(scores.status())) return absl::OkStatus();
  if (!scores.ok()) return scores.status();
  if ((*scores)->size() != vocabulary.tokens.size()) {
    return Fault("scores", absl::StrCat("has ", (*scores)->size(), " entries, the vocabulary ",
                                        vocabulary.tokens.size()));
  }
  for (size_t i = 0; i < (*scores)->size(); ++i) {
    // Merging orders by score, and what is no number has no place in an order.
    if (std::isnan((**scores)[i])) {
      return Fault("scores", absl::StrCat("has no number at token ", i));
    }
  }
  vocabulary.scores.assign((*scores)->begin(), (*scores)->end());
  return absl::OkStatus();
}

/// Whether text may become the token by merging: not a control token.
bool IsText(TokenType type) {
  return type == TokenType::kNormal || type == TokenType::kUserDefined;
}

absl::Status ReadMerges(const GgufFile& file, Vocabulary& vocabulary) {
  const absl::StatusOr<const std::vector<std::string>*> merges = file.GetStrings(Key("merges"));
  if (absl::IsNotFound(merges.status())) return absl::OkStatus();
  if (!merges.ok()) return merges.status();
  if ((*merges)->size() > std::numeric_limits<int32_t>::max()) {
    return Fault("merges", "has more than 2^31 entries");
  }
  absl::flat_hash_map<std::string_view, int32_t> ids;
  ids.reserve(vocabulary.tokens.size());
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    if (IsText(vocabulary.types[i])) {
      ids.emplace(vocabulary.tokens[i], static_cast<int32_t>(i));
    }
  }
  vocabulary.merges.reserve((*merges)->size());
  std::string joined;
  for (size_t rank = 0; rank < (*merges)->size(); ++rank) {
    const std::string_view merge = (**merges)[rank];
    const size_t space = merge.find(' ');
    if (space == std::string_view::npos) {
      return Fault("merges", absl::StrCat("has an entry without a space at ", rank));
    }
    joined.assign(merge.substr(0, space)).append(merge.substr(space + 1));
    const auto left = ids.find(merge.substr(0, space));
    const auto right = ids.find(merge.substr(space + 1));
    const auto merged = ids.find(joined);
    if (left == ids.end() || right == ids.end() || merged == ids.end()) {
      return Fault("merges",
                   absl::StrCat("names at ", rank, " a token that the vocabulary lacks as text"));
    }
    vocabulary.merges.push_back({left->second, right->second, merged->second});
  }
  return absl::OkStatus();
}

/// Byte-level byte pair encoding, of a vocabulary that has been read but for its bytes.
absl::Status UseMerges(const std::optional<bool>& add_bos, Vocabulary& vocabulary) {
  std::optional<NamedPretokenizer> named = FindPretokenizer(vocabulary.pretokenizer);
  if (!named) {
    return absl::UnimplementedError(absl::StrCat(Key("pre"), " is '", vocabulary.pretokenizer,
                                                 "', a pre-tokenizer that Winnow does not know."));
  }
  if (vocabulary.merges.empty()) return Fault("merges", "is missing, which merging bytes needs");
  for (size_t rank = 0; rank < vocabulary.merges.size(); ++rank) {
    const TokenMerge& merge = vocabulary.merges[rank];
    for (const int32_t token : {merge.left, merge.right, merge.merged}) {
      if (!IsText(vocabulary.types[token])) {
        return Fault("merges", absl::StrCat("makes at ", rank, " text of the marker '",
                                            vocabulary.tokens[token], "'"));
      }
    }
  }
  if (add_bos.value_or(false) && vocabulary.bos_token < 0) {
    return Fault("bos_token_id", "is missing, but add_bos_token is set");
  }
  vocabulary.token_model = TokenModel::kByteMerges;
  vocabulary.normalizer = std::move(named->normalizer);
  vocabulary.splits = std::move(named->splits);
  vocabulary.ignores_merges = named->ignores_merges;
  if (vocabulary.bos_token >= 0 && add_bos.value_or(named->adds_bos)) {
    vocabulary.prefix = {vocabulary.bos_token};
  }
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const std::string& token = vocabulary.tokens[i];
    vocabulary.bytes.push_back(vocabulary.types[i] == TokenType::kNormal ? DecodeByteSpelling(token)
                                                                         : token);
  }
  return absl::OkStatus();
}

/// SentencePiece's byte pair encoding, likewise.
absl::Status UseScores(const std::optional<bool>& add_bos, bool add_space, Vocabulary& vocabulary) {
  if (vocabulary.scores.empty()) {
    return Fault("scores", "is missing, which a 'llama' tokenizer needs");
  }
  if (add_bos.value_or(true)) {
    if (vocabulary.bos_token < 0) {
      return Fault("bos_token_id", "is missing, but add_bos_token is set or left at its default");
    }
    vocabulary.prefix = {vocabulary.bos_token};
  }
  vocabulary.token_model = TokenModel::kScores;
  if (add_space) vocabulary.normalizer.Add(Normalizer::Prepend{std::string(kSpaceMark)});
  vocabulary.normalizer.Add(Normalizer::Replace{" ", std::string(kSpaceMark)});
  vocabulary.strips_leading_space = add_space;
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const std::string& token = vocabulary.tokens[i];
    if (vocabulary.types[i] == TokenType::kByte) {
      const std::optional<unsigned char> byte = ParseByteToken(token);
      if (!byte) {
        return Fault("tokens",
                     absl::StrCat("spells byte token ", i, " not as \"<0x00>\" to \"<0xFF>\""));
      }
      vocabulary.bytes.emplace_back(1, static_cast<char>(*byte));
    } else {
      vocabulary.bytes.push_back(vocabulary.types[i] == TokenType::kNormal ? UnmarkSpaces(token)
                                                                           : token);
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::optional<unsigned char> ParseByteToken(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return std::nullopt;
  int byte = 0;
  for (const char c : token.substr(3, 2)) {
    int digit;
    if (c >= '0' && c <= '9') {
      digit = c - '0';
    } else if (c >= 'A' && c <= 'F') {
      digit = c - 'A' + 10;
    } else {
      return std::nullopt;
    }
    byte = byte * 16 + digit;
  }
  return static_cast<unsigned char>(byte);
}

std::vector<int32_t> EndOfGenerationTokens(const Vocabulary& vocabulary,
                                           std::vector<int32_t> named) {
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const TokenType type = vocabulary.types[i];
    if ((type == TokenType::kControl || type == TokenType::kMarker) &&
        IsTurnEnd(vocabulary.tokens[i])) {
      named.push_back(static_cast<int32_t>(i));
    }
  }
  std::erase(named, -1);
  std::sort(named.begin(), named.end());
  named.erase(std::unique(named.begin(), named.end()), named.end());
  return named;
}

absl::StatusOr<Vocabulary> ReadVocabulary(const GgufFile& file) {
  Vocabulary vocabulary;
  absl::StatusOr<std::string> model = file.GetString(Key("model"));
  if (!model.ok()) return absl::InvalidArgumentError(std::string(model.status().message()));
  vocabulary.model = *std::move(model);

  absl::StatusOr<const std::vector<std::string>*> tokens = file.GetStrings(Key("tokens"));
  if (!tokens.ok()) return absl::InvalidArgumentError(std::string(tokens.status().message()));
  if ((*tokens)->empty() || (*tokens)->size() > std::numeric_limits<int32_t>::max()) {
    return Fault("tokens", absl::StrCat("has ", (*tokens)->size(), " entries"));
  }
  vocabulary.tokens = **tokens;

  if (absl::Status status = ReadTypes(file, vocabulary); !status.ok()) return status;
  if (absl::Status status = ReadScores(file, vocabulary); !status.ok()) return status;

  if (vocabulary.model == "gpt2") {
    if (absl::Status status = ReadMerges(file, vocabulary); !status.ok()) return status;
  }

  absl::StatusOr<std::string> pre = ValueOr<std::string>(file.GetString(Key("pre")), "default");
  if (!pre.ok()) return pre.status();
  vocabulary.pretokenizer = *std::move(pre);

  const size_t size = vocabulary.tokens.size();
  std::vector<int32_t> ids;
  for (std::string_view name :
       {"bos_token_id", "eos_token_id", "unknown_token_id", "eot_token_id", "eom_token_id"}) {
    absl::StatusOr<int32_t> id = TokenId(file, name, size);
    if (!id.ok()) return id.status();
    ids.push_back(*id);
  }
  vocabulary.bos_token = ids[0];
  vocabulary.eos_token = ids[1];
  vocabulary.unknown_token = ids[2];
  std::string templates;
  for (const char* key : {"tokenizer.chat_template", "tokenizer.chat_template.tool_use"}) {
    if (const auto jinja = file.GetString(key); jinja.ok())
      absl::StrAppend(&templates, *jinja, "\n");
  }
  TypeMarkers(templates, vocabulary);
  vocabulary.end_of_generation = EndOfGenerationTokens(vocabulary, {ids[1], ids[3], ids[4]});

  std::optional<bool> add_bos;
  if (absl::StatusOr<bool> value = file.GetBool(Key("add_bos_token")); value.ok()) {
    add_bos = *value;
  } else if (!absl::IsNotFound(value.status())) {
    return value.status();
  }
  const absl::StatusOr<bool> add_space = ValueOr<bool>(file.GetBool(Key("add_space_prefix")), true);
  if (!add_space.ok()) return add_space.status();

  absl::Status status;
  if (vocabulary.model == "gpt2") {
    status = UseMerges(add_bos, vocabulary);
  } else if (vocabulary.model == "llama") {
    status = UseScores(add_bos, *add_space, vocabulary);
  } else {
    status = absl::UnimplementedError(
        absl::StrCat(Key("model"), " is '", vocabulary.model,
                     "'; the tokenizers that Winnow knows are 'gpt2' and 'llama'."));
  }
  if (!status.ok()) return status;
  return vocabulary;
}

}  // namespace winnow

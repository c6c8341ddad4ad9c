#include "engine/text/sentencepiece_model.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/text/character_map.h"
#include "engine/text/spelling.h"
#include "engine/text/wire_reader.h"

namespace winnow {
namespace {

// Numbers of fields in sentencepiece_model.proto.
enum ModelField : uint32_t { kPieces = 1, kTrainer = 2, kNormalizer = 3 };
enum PieceField : uint32_t { kPiece = 1, kScore = 2, kType = 3 };
enum TrainerField : uint32_t {
  kModelType = 3,
  kWhitespaceAsSuffix = 24,
  kByteFallback = 35,
  kUnknownId = 40,
  kBosId = 41,
  kEosId = 42,
};
enum NormalizerField : uint32_t {
  kCharsMap = 2,
  kAddDummyPrefix = 3,
  kRemoveExtraWhitespaces = 4,
  kEscapeWhitespaces = 5,
};
constexpr uint64_t kUnigramType = 1, kBpeType = 2;

/// What a model's trainer and normaliser say, with the defaults of the proto.
struct Settings {
  uint64_t model_type = kUnigramType;
  bool whitespace_as_suffix = false;
  bool byte_fallback = false;
  int32_t unknown = 0, bos = 1, eos = 2;
  std::string_view chars_map;  ///< empty: there is none
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
};

absl::Status Fault(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer.model ", what, "."));
}

absl::Status Unsupported(const std::string& what) {
  return absl::UnimplementedError(absl::StrCat("tokenizer.model ", what, "."));
}

bool ReadTrainer(std::string_view message, Settings& settings) {
  WireReader reader(message);
  while (reader.Next()) {
    const uint64_t value = reader.Varint();
    // Negative numbers, which say "none", are written in 64 bits.
    const auto id = static_cast<int32_t>(value);
    switch (reader.field()) {
      case kModelType:
        settings.model_type = value;
        break;
      case kWhitespaceAsSuffix:
        settings.whitespace_as_suffix = value != 0;
        break;
      case kByteFallback:
        settings.byte_fallback = value != 0;
        break;
      case kUnknownId:
        settings.unknown = id;
        break;
      case kBosId:
        settings.bos = id;
        break;
      case kEosId:
        settings.eos = id;
        break;
      default:
        break;
    }
  }
  return reader.ok();
}

bool ReadNormalizer(std::string_view message, Settings& settings) {
  WireReader reader(message);
  while (reader.Next()) {
    switch (reader.field()) {
      case kCharsMap:
        settings.chars_map = reader.Bytes();
        break;
      case kAddDummyPrefix:
        settings.add_dummy_prefix = reader.Varint() != 0;
        break;
      case kRemoveExtraWhitespaces:
        settings.remove_extra_whitespaces = reader.Varint() != 0;
        break;
      case kEscapeWhitespaces:
        settings.escape_whitespaces = reader.Varint() != 0;
        break;
      default:
        break;
    }
  }
  return reader.ok();
}

/// Appends a token with its type, score and bytes.
absl::Status AddPiece(std::string_view message, Vocabulary& vocabulary) {
  std::string piece;
  float score = 0;
  uint64_t type = static_cast<uint64_t>(TokenType::kNormal);
  WireReader reader(message);
  while (reader.Next()) {
    if (reader.field() == kPiece) piece = std::string(reader.Bytes());
    if (reader.field() == kScore) score = reader.Float();
    if (reader.field() == kType) type = reader.Varint();
  }
  const size_t token = vocabulary.tokens.size();
  if (!reader.ok()) return Fault(absl::StrCat("has a broken piece at ", token));
  // The types are numbered as in GGUF files.
  if (type < static_cast<uint64_t>(TokenType::kNormal) ||
      type > static_cast<uint64_t>(TokenType::kByte)) {
    return Fault(absl::StrCat("has the unknown type ", type, " at piece ", token));
  }
  if (!std::isfinite(score)) return Fault(absl::StrCat("has a score without end at ", token));
  const auto token_type = static_cast<TokenType>(type);
  if (token_type == TokenType::kByte) {
    const std::optional<unsigned char> byte = ParseByteToken(piece);
    if (!byte) return Fault(absl::StrCat("spells byte piece ", token, " not as \"<0x0A>\""));
    vocabulary.bytes.emplace_back(1, static_cast<char>(*byte));
  } else if (token_type == TokenType::kNormal || token_type == TokenType::kUserDefined) {
    vocabulary.bytes.push_back(UnmarkSpaces(piece));
  } else {
    vocabulary.bytes.push_back(piece);
  }
  if (token_type == TokenType::kUserDefined) {
    vocabulary.added[static_cast<int32_t>(token)].normalized = piece;
  }
  vocabulary.tokens.push_back(std::move(piece));
  vocabulary.types.push_back(token_type);
  vocabulary.scores.push_back(score);
  return absl::OkStatus();
}

absl::Status CheckSettings(const Settings& settings) {
  if (settings.model_type != kUnigramType && settings.model_type != kBpeType) {
    return Unsupported(absl::StrCat("has the model type ", settings.model_type,
                                    "; those that Winnow knows are 1 (unigram) and 2 (BPE)"));
  }
  if (settings.whitespace_as_suffix || !settings.escape_whitespaces) {
    return Unsupported("wants spaces behind words or as they are, which Winnow can't do");
  }
  return absl::OkStatus();
}

/// Adds the map of characters, if there is one.
absl::Status AddCharacterMap(const Settings& settings, Vocabulary& vocabulary) {
  if (settings.chars_map.empty()) return absl::OkStatus();
  const absl::StatusOr<std::shared_ptr<const CharacterMap>> map =
      CharacterMap::Parse(settings.chars_map);
  if (!map.ok()) {
    return Fault(absl::StrCat("has a precompiled_charsmap that ", map.status().message()));
  }
  // What SentencePiece does in one pass is here done in several, which then differ.
  if ((*map)->makes_spaces() || !vocabulary.added.empty() ||
      ((*map)->removes() && !settings.remove_extra_whitespaces)) {
    return Unsupported(
        "maps characters (precompiled_charsmap) to spaces in a row, beside user-defined pieces, "
        "or to nothing where spaces stay, which Winnow can't do");
  }
  vocabulary.normalizer.Add(Normalizer::MapCharacters{*map});
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Vocabulary> ReadSentencePieceModel(std::string_view bytes) {
  Vocabulary vocabulary;
  Settings settings;
  WireReader reader(bytes);
  bool whole = true;
  while (whole && reader.Next()) {
    if (reader.field() == kTrainer) whole = ReadTrainer(reader.Bytes(), settings);
    if (reader.field() == kNormalizer) whole = ReadNormalizer(reader.Bytes(), settings);
    if (reader.field() != kPieces) continue;
    if (vocabulary.tokens.size() == std::numeric_limits<int32_t>::max()) {
      return Fault("has more than 2^31 pieces");
    }
    if (absl::Status status = AddPiece(reader.Bytes(), vocabulary); !status.ok()) return status;
  }
  if (!whole || !reader.ok() || vocabulary.tokens.empty()) {
    return Fault("is no model of SentencePiece");
  }
  if (absl::Status status = CheckSettings(settings); !status.ok()) return status;
  const auto size = static_cast<int64_t>(vocabulary.tokens.size());
  for (const int32_t id : {settings.unknown, settings.bos, settings.eos}) {
    if (id >= size) {
      return Fault(absl::StrCat("names token ", id, ", but has ", size, " pieces"));
    }
  }
  const bool unigram = settings.model_type == kUnigramType;
  vocabulary.model = unigram ? "SentencePiece unigram" : "SentencePiece BPE";
  vocabulary.token_model = unigram ? TokenModel::kUnigram : TokenModel::kScores;
  vocabulary.byte_fallback = settings.byte_fallback;
  vocabulary.unknown_token = std::max(settings.unknown, -1);
  vocabulary.bos_token = std::max(settings.bos, -1);
  vocabulary.eos_token = std::max(settings.eos, -1);
  if (vocabulary.bos_token >= 0) vocabulary.prefix = {vocabulary.bos_token};
  if (absl::Status status = AddCharacterMap(settings, vocabulary); !status.ok()) return status;
  if (settings.remove_extra_whitespaces) vocabulary.normalizer.Add(Normalizer::CollapseSpaces{});
  if (settings.add_dummy_prefix) {
    vocabulary.normalizer.Add(Normalizer::Prepend{std::string(kSpaceMark)});
  }
  vocabulary.normalizer.Add(Normalizer::Replace{" ", std::string(kSpaceMark)});
  vocabulary.strips_leading_space = settings.add_dummy_prefix || settings.remove_extra_whitespaces;
  return vocabulary;
}

}  // namespace winnow

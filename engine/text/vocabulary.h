#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "engine/model/gguf.h"
#include "engine/text/normalizer.h"
#include "engine/text/pretokenizer.h"

namespace winnow {

/// What a token is for, with GGUF's numbers (`tokenizer.ggml.token_type`) but for kMarker.
enum class TokenType : uint8_t {
  kNormal = 1,
  kUnknown = 2,      ///< stands for what the vocabulary can't spell
  kControl = 3,      ///< such as "<|im_end|>": never found in plain text
  kUserDefined = 4,  ///< found in any text before it is split into words
  kUnused = 5,
  kByte = 6,  ///< "<0x0A>" stands for the byte 10
  /// A user-defined token that gives a conversation its structure (engine/text/markers.h): never
  /// found in plain text, as control tokens, but part of the text when the model writes it.
  kMarker = 7,
};

/// Two neighbouring tokens and what byte pair encoding makes of them.
struct TokenMerge {
  int32_t left;
  int32_t right;
  int32_t merged;
};

/// How a token that is found by its spelling is found, as `added_tokens` of a tokenizer.json say.
struct AddedToken {
  bool single_word = false;   ///< only between characters that belong to no word
  bool strips_left = false;   ///< takes the whitespace before it, too
  bool strips_right = false;  ///< and that behind it
  /// What it is spelled as in the normalised text, where it is looked for; unset: it is found as it
  /// is spelled, before the text is normalised. Of user-defined tokens only: control tokens and
  /// markers are always found as they are spelled.
  std::optional<std::string> normalized = {};

  bool operator==(const AddedToken&) const = default;
};

/// How the words of a text become tokens.
enum class TokenModel : uint8_t {
  kByteMerges,       ///< byte pair encoding of bytes by the rank of merges (GPT-2's)
  kCharacterMerges,  ///< the same of characters
  kScores,   ///< SentencePiece's byte pair encoding: neighbours by the score of what they become
  kUnigram,  ///< the division with the greatest sum of scores
};

/// A model's vocabulary and how text becomes tokens of it: what every kind of file is read into,
/// and what tokenizers are built from.
struct Vocabulary {
  std::string model;                ///< as its file names it, such as "gpt2" or "BPE"
  std::string pretokenizer;         ///< likewise: `tokenizer.ggml.pre`, or what a JSON file lists
  std::vector<std::string> tokens;  ///< as the file spells them; a token's id is its index
  /// The bytes that each token stands for; a control token's are its spelling.
  std::vector<std::string> bytes;
  std::vector<TokenType> types;    ///< one for each token
  std::vector<double> scores;      ///< one for each token, or empty
  std::vector<TokenMerge> merges;  ///< the most important first; may be empty
  int32_t bos_token = -1;          ///< -1 if there is none
  int32_t eos_token = -1;
  int32_t unknown_token = -1;
  std::vector<int32_t> end_of_generation;  ///< sorted, without repetition
  /// Control tokens by their looks, sorted: the file types them as normal, or types nothing.
  std::vector<int32_t> recognised;
  absl::flat_hash_map<int32_t, AddedToken> added;  ///< the tokens that have one of its marks

  Normalizer normalizer;
  Pretokenizer splits;
  TokenModel token_model = TokenModel::kByteMerges;
  bool ignores_merges = false;  ///< a word that is a token becomes it, whatever the merges say
  bool byte_fallback = false;   ///< characters without a token are spelled in byte tokens
  bool fuses_unknown = false;   ///< a run of unknown characters is one unknown token
  std::vector<int32_t> prefix;  ///< what stands in front of a text: the BOS token, or nothing
  /// Decoding a whole sequence drops one leading space.
  bool strips_leading_space = false;
};

/// Reads `tokenizer.ggml.*` and checks that ids lie in the vocabulary and arrays have its length.
/// Markers of conversations are typed as such (engine/text/markers.h), and where a SentencePiece
/// file has no types, byte tokens are known by their spelling. Of tokens that are spelled alike the
/// first one is used. INVALID_ARGUMENT names the key at fault, also when merges name tokens that
/// the vocabulary lacks as text; UNIMPLEMENTED the tokenizer model or pre-tokenizer that is not
/// known.
absl::StatusOr<Vocabulary> ReadVocabulary(const GgufFile& file);

/// The byte that a token such as "<0x0A>" stands for.
std::optional<unsigned char> ParseByteToken(std::string_view token);

/// The tokens that end a generation: end of sequence, and those whose spelling is known to end a
/// turn, since files often name only one of them. Markers count, as some files have them in place
/// of control tokens. `named` holds ids that the file names.
std::vector<int32_t> EndOfGenerationTokens(const Vocabulary& vocabulary,
                                           std::vector<int32_t> named);

}  // namespace winnow

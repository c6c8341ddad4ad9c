#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/gguf.h"

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

/// A model's vocabulary as its file spells it: what the tokenizers are built from.
struct Vocabulary {
  std::string model;                ///< `tokenizer.ggml.model`
  std::string pretokenizer;         ///< `tokenizer.ggml.pre`, "default" if the file has none
  std::vector<std::string> tokens;  ///< a token's id is its index
  std::vector<TokenType> types;     ///< one for each token
  std::vector<float> scores;        ///< one for each token, or empty
  std::vector<std::string> merges;  ///< "left right", the most important first; may be empty
  int32_t bos_token = -1;           ///< -1 if there is none
  int32_t eos_token = -1;
  int32_t unknown_token = -1;
  std::vector<int32_t> end_of_generation;  ///< sorted, without repetition
  /// Control tokens by their looks, sorted: the file types them as normal, or types nothing.
  std::vector<int32_t> recognised;
  std::optional<bool> add_bos;   ///< unset: as the tokenizer model is used to
  bool add_space_prefix = true;  ///< of SentencePiece only
};

/// Reads `tokenizer.ggml.*` and checks that ids lie in the vocabulary and arrays have its length.
/// Markers of conversations are typed as such (engine/text/markers.h), and where a SentencePiece
/// file has no types, byte tokens are known by their spelling. INVALID_ARGUMENT names the key at
/// fault.
absl::StatusOr<Vocabulary> ReadVocabulary(const GgufFile& file);

/// The byte that a token such as "<0x0A>" stands for.
std::optional<unsigned char> ParseByteToken(std::string_view token);

/// The tokens that end a generation: end of sequence, and those whose spelling is known to end a
/// turn, since files often name only one of them. Markers count, as some files have them in place
/// of control tokens. `named` holds ids that the file names.
std::vector<int32_t> EndOfGenerationTokens(const Vocabulary& vocabulary,
                                           std::vector<int32_t> named);

}  // namespace winnow

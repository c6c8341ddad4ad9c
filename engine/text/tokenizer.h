#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/gguf.h"

namespace winnow {

struct Vocabulary;

/// A stretch of a text. Only where its author may be trusted with them, spellings of control tokens
/// and of other markers of a conversation should become those tokens.
struct TextSegment {
  std::string text;
  bool parse_special = false;
};

/// Text to token ids and back, as the model was trained. Immutable after creation and safe to use
/// from several threads.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// The tokenizer of a vocabulary that has been read (engine/text/vocabulary.h).
  static std::unique_ptr<Tokenizer> Create(const Vocabulary& vocabulary);
  /// That of a file's `tokenizer.ggml.*` metadata. Errors are those of ReadVocabulary.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromGguf(const GgufFile& file);

  /// Token ids of a text that is UTF-8 (invalid bytes are tokenized as bytes), given in stretches.
  /// With `parse_special`, spellings of control tokens and markers in a stretch (such as
  /// "<|im_end|>") become those tokens; without, or when they reach across stretches, they are
  /// ordinary text, whatever the file types them as (engine/text/markers.h). Otherwise
  /// the text is tokenized as if it were in one piece. With `add_bos`, the beginning-of-sequence
  /// token is put in front if the model wants one. A long text may take seconds: once `cancelled`
  /// is set, this returns soon, and what it returns means nothing.
  virtual std::vector<int32_t> EncodeSegments(std::span<const TextSegment> segments, bool add_bos,
                                              const std::atomic<bool>& cancelled) const = 0;
  /// The same to the end.
  std::vector<int32_t> EncodeSegments(std::span<const TextSegment> segments, bool add_bos) const {
    return EncodeSegments(segments, add_bos, /*cancelled=*/std::atomic<bool>(false));
  }
  /// The same for a text of one stretch.
  std::vector<int32_t> Encode(std::string_view text, bool parse_special, bool add_bos) const {
    const TextSegment segment = {std::string(text), parse_special};
    return EncodeSegments({&segment, 1}, add_bos);
  }

  /// As many tokens come of the text at least, whatever it holds: found in no more than one pass
  /// over it. 0: nothing is known.
  virtual size_t LeastTokens(std::span<const TextSegment> /*segments*/) const { return 0; }

  /// The bytes that a token stands for, possibly a part of a UTF-8 character. Control tokens give
  /// their spelling if `render_special`, else nothing. REQUIRES: 0 <= token < vocab_size().
  virtual std::string TokenBytes(int32_t token, bool render_special) const = 0;

  virtual int32_t vocab_size() const = 0;
  /// Beginning-of-sequence token, or -1 if there is none.
  virtual int32_t bos_token() const = 0;
  /// True for tokens that end a generation: end of sequence, end of turn.
  virtual bool IsEndOfGeneration(int32_t token) const = 0;
  /// Whether decoding a whole sequence drops one leading space (SentencePiece with a dummy prefix).
  virtual bool StripsLeadingSpace() const = 0;
};

/// Joins the bytes of tokens into text as they come, holding back incomplete UTF-8 characters.
class Detokenizer {
 public:
  /// REQUIRES: `tokenizer` outlives this object. With `at_text_start`, the leading space that
  /// SentencePiece adds is dropped from the first token.
  Detokenizer(const Tokenizer& tokenizer, bool render_special, bool at_text_start);

  /// Adds a token and returns the text that is now complete; always valid UTF-8 on its own, perhaps
  /// empty. Bytes that can never become a character turn into U+FFFD.
  std::string Append(int32_t token);

  /// What was held back, as U+FFFD if it is an incomplete character; the detokenizer is then empty.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  bool render_special_;
  bool at_text_start_;
  std::string pending_;  ///< an incomplete UTF-8 character, at most 3 bytes
};

}  // namespace winnow

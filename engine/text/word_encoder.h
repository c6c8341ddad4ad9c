#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/text/pair_merger.h"

namespace winnow {

/// How the best division of a text that ends at a place ends (UnigramEncoder).
struct DivisionEnd {
  double score;   ///< of the whole division
  int32_t bytes;  ///< of its last piece; 0: there is no division yet
  int32_t token;  ///< -1: no token
};

/// Memory that encoders keep from word to word.
struct EncoderMemory {
  PairMerger merger{};
  std::vector<DivisionEnd> divisions{};
};

/// A tokenizer's model: what makes tokens of words. Immutable, and safe to use from several
/// threads.
class WordEncoder {
 public:
  virtual ~WordEncoder() = default;

  /// Appends the tokens of a word, never empty, or some of them once `cancelled` is set. Takes
  /// linear time.
  virtual void Encode(std::string_view word, const std::atomic<bool>& cancelled,
                      EncoderMemory& memory, std::vector<int32_t>& tokens) const = 0;

  /// Whether each byte always becomes a part of a token that spells it, or its own token, whatever
  /// stands beside it.
  const std::array<bool, 256>& spelled() const { return spelled_; }

 protected:
  std::array<bool, 256> spelled_{};
};

}  // namespace winnow

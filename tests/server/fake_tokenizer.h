#pragma once

#include <atomic>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/tokenizer.h"

namespace winnow {

/// Every byte of the text is a token of the same number; token 256 is beginning of sequence, 257
/// ends a generation, and what follows has no text. Spelled "<bos>" and "<eos>".
class FakeTokenizer final : public Tokenizer {
 public:
  static constexpr int32_t kBos = 256;
  static constexpr int32_t kEos = 257;
  static constexpr int32_t kVocabSize = 260;

  std::vector<int32_t> EncodeSegments(std::span<const TextSegment> segments, bool add_bos,
                                      const std::atomic<bool>& cancelled) const override {
    if (before_encode) before_encode(segments, cancelled);
    std::vector<int32_t> tokens;
    if (add_bos) tokens.push_back(kBos);
    for (const auto& [text, parse_special] : segments) {
      for (size_t i = 0; i < text.size();) {
        if (parse_special && text.compare(i, 5, "<eos>") == 0) {
          tokens.push_back(kEos);
          i += 5;
        } else {
          tokens.push_back(static_cast<unsigned char>(text[i++]));
        }
      }
    }
    return tokens;
  }

  /// The longest token is "<eos>".
  size_t LeastTokens(std::span<const TextSegment> segments) const override {
    size_t bytes = 0;
    for (const TextSegment& segment : segments) bytes += segment.text.size();
    return (bytes + 4) / 5;
  }

  std::string TokenBytes(int32_t token, bool render_special) const override {
    if (token < 256) return std::string(1, static_cast<char>(token));
    if (!render_special) return "";
    return token == kBos ? "<bos>" : token == kEos ? "<eos>" : "";
  }

  int32_t vocab_size() const override { return kVocabSize; }
  int32_t bos_token() const override { return kBos; }
  bool IsEndOfGeneration(int32_t token) const override { return token == kEos; }
  bool StripsLeadingSpace() const override { return false; }

  /// To be set before others use it.
  std::function<void(std::span<const TextSegment>, const std::atomic<bool>& cancelled)>
      before_encode;
};

}  // namespace winnow

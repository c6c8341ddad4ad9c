#include <unicode/utf8.h>

#include <string>
#include <string_view>
#include <utility>

#include "engine/text/tokenizer.h"

namespace winnow {
namespace {

constexpr std::string_view kReplacement = "\uFFFD";

/// Whether bytes that do not decode, and were consumed to the end of the text, may still become a
/// character when more bytes follow.
bool IsCharacterPrefix(std::string_view bytes) {
  return static_cast<int>(bytes.size()) <= U8_COUNT_TRAIL_BYTES(bytes[0]);
}

}  // namespace

Detokenizer::Detokenizer(const Tokenizer& tokenizer, bool render_special, bool at_text_start)
    : tokenizer_(tokenizer),
      render_special_(render_special),
      at_text_start_(at_text_start && tokenizer.StripsLeadingSpace()) {}

std::string Detokenizer::Append(int32_t token) {
  std::string bytes = tokenizer_.TokenBytes(token, render_special_);
  if (at_text_start_ && !bytes.empty()) {
    if (bytes[0] == ' ') bytes.erase(0, 1);
    at_text_start_ = false;
  }
  pending_.append(bytes);

  std::string text;
  size_t i = 0;
  while (i < pending_.size()) {
    const size_t begin = i;
    UChar32 c;
    // Consumes the maximal subpart of an ill-formed sequence, which is what one U+FFFD stands for.
    U8_NEXT(pending_.data(), i, pending_.size(), c);
    const std::string_view consumed = std::string_view(pending_).substr(begin, i - begin);
    if (c >= 0) {
      text.append(consumed);
    } else if (i == pending_.size() && IsCharacterPrefix(consumed)) {
      i = begin;
      break;
    } else {
      text.append(kReplacement);
    }
  }
  pending_.erase(0, i);
  return text;
}

std::string Detokenizer::Flush() {
  if (pending_.empty()) return "";
  pending_.clear();
  return std::string(kReplacement);
}

}  // namespace winnow

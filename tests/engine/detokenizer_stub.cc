#include "engine/text/tokenizer.h"

namespace winnow {

Detokenizer::Detokenizer(const Tokenizer& tokenizer, bool render_special, bool at_text_start)
    : tokenizer_(tokenizer), render_special_(render_special), at_text_start_(at_text_start) {
  static_cast<void>(at_text_start_);
}
std::string Detokenizer::Append(int32_t token) {
  return tokenizer_.TokenBytes(token, render_special_);
}
std::string Detokenizer::Flush() { return ""; }

}  // namespace winnow

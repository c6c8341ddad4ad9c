// Any bytes as a tokenizer.json: what is accepted makes tokens of texts and text of tokens.

#include <cstdint>
#include <string_view>

#include "engine/text/tokenizer_json.h"
#include "tests/fuzz/tokenizer_checks.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace winnow;
  const auto vocabulary =
      ReadTokenizerJson(std::string_view(reinterpret_cast<const char*>(data), size));
  if (vocabulary.ok()) CheckVocabulary(*vocabulary);
  return 0;
}

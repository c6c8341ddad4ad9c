// Any bytes as a tokenizer.model: what is accepted makes tokens of texts and text of tokens.

#include <cstdint>
#include <string_view>

#include "engine/text/sentencepiece_model.h"
#include "tests/fuzz/tokenizer_checks.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace winnow;
  const auto vocabulary =
      ReadSentencePieceModel(std::string_view(reinterpret_cast<const char*>(data), size));
  if (vocabulary.ok()) CheckVocabulary(*vocabulary);
  return 0;
}

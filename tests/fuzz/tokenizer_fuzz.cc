// Any bytes as a text: the first byte chooses one of the golden vocabularies, the rest is the text.

#include <unicode/normalizer2.h>
#include <unicode/unistr.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/base/check.h"
#include "engine/text/named_pretokenizer.h"
#include "engine/text/tokenizer.h"
#include "tests/engine/text/golden_models.h"
#include "tests/engine/text/utf8.h"

namespace winnow {
namespace {

constexpr int32_t kUnknownPiece = 0;

struct Model {
  std::unique_ptr<Tokenizer> tokenizer;
  std::optional<NamedPretokenizer> pretokenizer;  ///< none: SentencePiece
};

std::vector<Model> LoadModels() {
  std::vector<Model> models;
  const nlohmann::json bpe = LoadGolden("tokenizer_bpe.json");
  for (const auto& model : bpe["models"]) {
    models.push_back(
        {BpeVocabulary(model).Load().value(), FindPretokenizer(model["pre"].get<std::string>())});
  }
  const nlohmann::json pieces = LoadGolden("tokenizer_sentencepiece.json");
  for (const auto& model : pieces["models"]) {
    models.push_back({SentencePieceVocabulary(model).Load().value(), std::nullopt});
  }
  return models;
}

/// Normalisation form C by ICU's other interface, in UTF-16.
std::string Nfc(const std::string& text) {
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* nfc = icu::Normalizer2::getNFCInstance(error);
  const icu::UnicodeString normalized = nfc->normalize(icu::UnicodeString::fromUTF8(text), error);
  WINNOW_CHECK(U_SUCCESS(error));
  std::string result;
  normalized.toUTF8String(result);
  return result;
}

std::string SpacesForMarks(std::string text) {
  constexpr std::string_view kSpaceMark = "\u2581";
  for (size_t at = 0; (at = text.find(kSpaceMark, at)) != std::string::npos;) {
    text.replace(at, kSpaceMark.size(), " ");
  }
  return text;
}

/// Whether a part of the text became the unknown token, which says nothing of it: only the
/// SentencePiece model without byte tokens does that.
bool HasUnknown(const Model& model, const std::vector<int32_t>& tokens) {
  return !model.pretokenizer &&
         std::find(tokens.begin(), tokens.end(), kUnknownPiece) != tokens.end();
}

/// What decoding the tokens of a text must give.
std::string Expected(const Model& model, const std::string& text) {
  if (!model.pretokenizer) return RepairUtf8(SpacesForMarks(text));
  if (!model.pretokenizer->normalizer.empty() && IsValidUtf8(text)) return Nfc(text);
  return RepairUtf8(text);
}

void CheckWords(const Pretokenizer& splits, std::string_view text) {
  std::string joined;
  splits.ForEachWord(text, /*at_start=*/true, [&joined](std::string_view word) {
    WINNOW_CHECK(!word.empty());
    joined.append(word);
    return true;
  });
  WINNOW_CHECK(joined == text);
}

std::string CheckedDecode(const Tokenizer& tokenizer, const std::vector<int32_t>& tokens,
                          bool render_special) {
  Detokenizer detokenizer(tokenizer, render_special, /*at_text_start=*/true);
  std::string text;
  for (const int32_t token : tokens) {
    WINNOW_CHECK(token >= 0 && token < tokenizer.vocab_size());
    const std::string piece = detokenizer.Append(token);
    WINNOW_CHECK(IsValidUtf8(piece));
    text += piece;
  }
  return text + detokenizer.Flush();
}

}  // namespace
}  // namespace winnow

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace winnow;
  static const std::vector<Model> models = LoadModels();
  if (size == 0) return 0;
  const Model& model = models[data[0] % models.size()];
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (model.pretokenizer) CheckWords(model.pretokenizer->splits, text);

  const std::vector<int32_t> plain = model.tokenizer->Encode(text, /*parse_special=*/false, false);
  const std::vector<int32_t> special = model.tokenizer->Encode(text, /*parse_special=*/true, false);
  WINNOW_CHECK(plain.size() <= 3 * text.size() + 1);
  for (const auto& [tokens, parse_special] : {std::pair(&plain, false), {&special, true}}) {
    const TextSegment segment = {text, parse_special};
    WINNOW_CHECK(model.tokenizer->LeastTokens({&segment, 1}) <= tokens->size());
  }
  const std::string decoded = CheckedDecode(*model.tokenizer, plain, /*render_special=*/true);
  if (!HasUnknown(model, plain)) WINNOW_CHECK(decoded == Expected(model, text));
  const std::string spelled = CheckedDecode(*model.tokenizer, special, /*render_special=*/true);
  // SentencePiece puts a space behind every special token, and normalisation stops at them.
  if (model.pretokenizer && model.pretokenizer->normalizer.empty())
    WINNOW_CHECK(spelled == decoded);
  return 0;
}

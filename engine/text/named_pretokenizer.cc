#include "engine/text/named_pretokenizer.h"

namespace winnow {
namespace {

struct Entry {
  std::string_view name;
  WordPattern pattern;
  bool splits_digits = false;  ///< every \p{N} by itself, the pattern on what lies between
  bool normalizes_nfc = false;
  bool ignores_merges = false;
  bool adds_bos = false;
};

constexpr Entry Llama3(std::string_view name) {
  return {.name = name, .pattern = WordPattern::kLlama3, .ignores_merges = true, .adds_bos = true};
}
constexpr Entry Digits(std::string_view name) {
  return {.name = name, .pattern = WordPattern::kGpt2, .splits_digits = true};
}
constexpr Entry Qwen2(std::string_view name) {
  return {.name = name, .pattern = WordPattern::kQwen2, .normalizes_nfc = true};
}

// "default" is what files from before the key existed amount to: GPT-2 and its descendants.
constexpr Entry kEntries[] = {
    {.name = "default", .pattern = WordPattern::kGpt2},
    {.name = "gpt-2", .pattern = WordPattern::kGpt2},
    {.name = "phi-2", .pattern = WordPattern::kGpt2},
    Digits("smollm"),
    Digits("starcoder"),
    Digits("refact"),
    Llama3("llama-bpe"),
    Llama3("llama3"),
    Llama3("llama-v3"),
    {.name = "dbrx", .pattern = WordPattern::kLlama3},
    Qwen2("qwen2"),
    Qwen2("deepseek-r1-qwen"),
    {.name = "tekken", .pattern = WordPattern::kTekken, .ignores_merges = true, .adds_bos = true},
    {.name = "gpt-4o", .pattern = WordPattern::kGpt4o},
};

}  // namespace

std::optional<NamedPretokenizer> FindPretokenizer(std::string_view name) {
  for (const Entry& entry : kEntries) {
    if (entry.name != name) continue;
    NamedPretokenizer found;
    found.ignores_merges = entry.ignores_merges;
    found.adds_bos = entry.adds_bos;
    if (entry.normalizes_nfc) found.normalizer.Add(UnicodeForm::kNfc);
    if (entry.splits_digits) {
      found.splits.Add(Pretokenizer::Split{Pretokenizer::CharacterKind::kNumber});
    }
    found.splits.Add(Pretokenizer::Words{entry.pattern});
    return found;
  }
  return std::nullopt;
}

}  // namespace winnow

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/gguf.h"
#include "engine/text/tokenizer.h"
#include "tests/engine/model/gguf_writer.h"

namespace winnow {

/// What a GGUF file says of a tokenizer. What is empty or unset is left out of the file, so that a
/// test can write files that lack it; nothing is checked.
struct VocabularyFile {
  /// The types that `token_type` numbers.
  static constexpr int32_t kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5,
                           kByte = 6;

  std::string model = {};
  std::string pre = {};
  std::vector<std::string> tokens = {};
  std::vector<int32_t> types = {};
  std::vector<float> scores = {};
  std::vector<std::string> merges = {};
  std::optional<uint32_t> bos = {}, eos = {}, unknown = {};
  std::optional<bool> add_bos = {}, add_space_prefix = {};
  std::string chat_template = {};

  /// Appends a token and returns its id.
  uint32_t Add(const std::string& token, int32_t type = kNormal, float score = 0) {
    tokens.push_back(token);
    types.push_back(type);
    scores.push_back(score);
    return static_cast<uint32_t>(tokens.size() - 1);
  }

  GgufWriter Write() const {
    GgufWriter writer;
    if (!model.empty()) writer.String("tokenizer.ggml.model", model);
    if (!pre.empty()) writer.String("tokenizer.ggml.pre", pre);
    if (!tokens.empty()) writer.Strings("tokenizer.ggml.tokens", tokens);
    if (!types.empty()) writer.Array("tokenizer.ggml.token_type", kGgufInt32, types);
    if (!scores.empty()) writer.Array("tokenizer.ggml.scores", kGgufFloat32, scores);
    if (!merges.empty()) writer.Strings("tokenizer.ggml.merges", merges);
    if (bos) writer.Uint32("tokenizer.ggml.bos_token_id", *bos);
    if (eos) writer.Uint32("tokenizer.ggml.eos_token_id", *eos);
    if (unknown) writer.Uint32("tokenizer.ggml.unknown_token_id", *unknown);
    if (add_bos) writer.Bool("tokenizer.ggml.add_bos_token", *add_bos);
    if (add_space_prefix) writer.Bool("tokenizer.ggml.add_space_prefix", *add_space_prefix);
    if (!chat_template.empty()) writer.String("tokenizer.chat_template", chat_template);
    return writer;
  }

  absl::StatusOr<std::unique_ptr<Tokenizer>> Load() const { return LoadTokenizer(Write()); }

  static absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const GgufWriter& writer) {
    const TemporaryFile file(writer.Bytes());
    auto gguf = GgufFile::Open(file.path());
    if (!gguf.ok()) return gguf.status();
    return Tokenizer::FromGguf(**gguf);
  }
};

/// How byte-level vocabularies spell a byte.
inline std::string SpellByte(int byte) {
  const auto printable = [](int b) { return (b > 32 && b < 127) || (b > 160 && b != 173); };
  int code_point = byte;
  if (!printable(byte)) {
    code_point = 256;
    for (int b = 0; b < byte; ++b) code_point += printable(b) ? 0 : 1;
  }
  if (code_point < 128) return {static_cast<char>(code_point)};
  return {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3F))};
}

/// A byte-level vocabulary with nothing but the 256 bytes, in order; a test adds the rest.
inline VocabularyFile ByteLevelVocabulary() {
  VocabularyFile file{.model = "gpt2", .pre = "gpt-2"};
  for (int byte = 0; byte < 256; ++byte) file.Add(SpellByte(byte));
  file.scores.clear();
  return file;
}

/// A SentencePiece vocabulary with <unk>, <s>, </s> and the 256 bytes as tokens 3 to 258; a test
/// adds the rest.
inline VocabularyFile SentencePieceVocabulary() {
  VocabularyFile file{.model = "llama"};
  file.unknown = file.Add("<unk>", VocabularyFile::kUnknown);
  file.bos = file.Add("<s>", VocabularyFile::kControl);
  file.eos = file.Add("</s>", VocabularyFile::kControl);
  constexpr char kDigits[] = "0123456789ABCDEF";
  for (int byte = 0; byte < 256; ++byte) {
    file.Add(std::string("<0x") + kDigits[byte / 16] + kDigits[byte % 16] + ">",
             VocabularyFile::kByte);
  }
  return file;
}

/// The text of whole sequences: what a reader of a stream sees in the end.
inline std::string Decode(const Tokenizer& tokenizer, const std::vector<int32_t>& tokens,
                          bool render_special = false) {
  Detokenizer detokenizer(tokenizer, render_special, /*at_text_start=*/true);
  std::string text;
  for (const int32_t token : tokens) text += detokenizer.Append(token);
  return text + detokenizer.Flush();
}

}  // namespace winnow

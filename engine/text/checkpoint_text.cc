#include "engine/text/checkpoint_text.h"

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/model/mapped_file.h"
#include "engine/text/markers.h"
#include "engine/text/sentencepiece_model.h"
#include "engine/text/tokenizer_config.h"
#include "engine/text/tokenizer_json.h"

namespace winnow {
namespace {

/// What `read` makes of a file of the folder; unset if there is none.
template <typename Read>
auto ReadFile(const std::string& folder, const char* name, Read read)
    -> absl::StatusOr<std::optional<typename decltype(read(std::string_view()))::value_type>> {
  const std::string path = std::filesystem::path(folder) / name;
  const absl::StatusOr<MappedFile> file = MappedFile::Open(path);
  if (absl::IsNotFound(file.status())) return std::nullopt;
  if (!file.ok()) return file.status();
  const std::span<const std::byte> bytes = file->bytes();
  auto value = read({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  if (!value.ok()) return value.status();
  return std::optional(*std::move(value));
}

/// The token of a spelling, or -1.
int32_t FindToken(const Vocabulary& vocabulary, const std::string& spelling) {
  if (spelling.empty()) return -1;
  const auto found = std::ranges::find(vocabulary.tokens, spelling);
  return found == vocabulary.tokens.end() ? -1
                                          : static_cast<int32_t>(found - vocabulary.tokens.begin());
}

absl::Status Apply(const TokenizerConfig& config, Vocabulary& vocabulary) {
  const size_t max_tokens = MaxTokens(vocabulary.tokens.size() + config.added.size());
  absl::Status fault;
  const nlohmann::json none;
  for (const AddedTokenEntry& entry : config.added) {
    const JsonValue place(
        none, absl::StrCat("tokenizer_config.json: added_tokens_decoder['", entry.id, "']"), fault);
    PlaceAddedToken(entry, max_tokens, place, vocabulary);
  }
  if (!fault.ok()) return fault;
  if (const int32_t bos = FindToken(vocabulary, config.bos); bos >= 0) vocabulary.bos_token = bos;
  if (const int32_t eos = FindToken(vocabulary, config.eos); eos >= 0) vocabulary.eos_token = eos;
  if (vocabulary.unknown_token < 0) {
    vocabulary.unknown_token = FindToken(vocabulary, config.unknown);
  }
  if (!config.adds_bos) return absl::OkStatus();
  vocabulary.prefix.clear();
  if (!*config.adds_bos) return absl::OkStatus();
  if (vocabulary.bos_token < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer_config.json: add_bos_token is set, but bos_token ('", config.bos,
                     "') is no token."));
  }
  vocabulary.prefix = {vocabulary.bos_token};
  return absl::OkStatus();
}

/// Makes the vocabulary as large as the model's embedding.
absl::Status Fit(int64_t vocab_size, Vocabulary& vocabulary) {
  const auto size = static_cast<size_t>(vocab_size);
  for (size_t i = size; i < vocabulary.tokens.size(); ++i) {
    if (vocabulary.types[i] == TokenType::kNormal || vocabulary.types[i] == TokenType::kByte) {
      return absl::InvalidArgumentError(absl::StrCat("the tokenizer has the token '",
                                                     vocabulary.tokens[i], "' at ", i,
                                                     ", but the model has ", size, " tokens."));
    }
  }
  const auto lost = [vocab_size](int32_t token) { return token >= vocab_size; };
  for (int32_t* token : {&vocabulary.bos_token, &vocabulary.eos_token, &vocabulary.unknown_token}) {
    if (lost(*token)) *token = -1;
  }
  std::erase_if(vocabulary.prefix, lost);
  absl::erase_if(vocabulary.added, [&lost](const auto& entry) { return lost(entry.first); });
  std::erase_if(vocabulary.merges, [&lost](const TokenMerge& merge) {
    return lost(merge.left) || lost(merge.right) || lost(merge.merged);
  });
  vocabulary.tokens.resize(size);
  vocabulary.bytes.resize(size);
  vocabulary.types.resize(size, TokenType::kUnused);
  if (!vocabulary.scores.empty()) vocabulary.scores.resize(size, vocabulary.scores[0]);
  return absl::OkStatus();
}

absl::StatusOr<Vocabulary> ReadFolderVocabulary(const std::string& folder) {
  auto json = ReadFile(folder, "tokenizer.json", ReadTokenizerJson);
  if (!json.ok()) return json.status();
  if (*json) return **std::move(json);
  auto model = ReadFile(folder, "tokenizer.model", ReadSentencePieceModel);
  if (!model.ok()) return model.status();
  if (*model) return **std::move(model);
  return absl::NotFoundError(
      absl::StrCat(folder, " has neither tokenizer.json nor tokenizer.model."));
}

absl::StatusOr<std::string> ReadText(std::string_view text) { return std::string(text); }

}  // namespace

absl::StatusOr<CheckpointText> CheckpointText::FromGguf(const GgufFile& file) {
  absl::StatusOr<Vocabulary> vocabulary = ReadVocabulary(file);
  if (!vocabulary.ok()) return vocabulary.status();
  CheckpointText text;
  text.tokenizer = Tokenizer::Create(*vocabulary);
  text.vocabulary = *std::move(vocabulary);
  if (auto jinja = file.GetString("tokenizer.chat_template"); jinja.ok()) {
    text.chat_template = *std::move(jinja);
  }
  if (auto jinja = file.GetString("tokenizer.chat_template.tool_use"); jinja.ok()) {
    text.tool_use_template = *std::move(jinja);
  }
  return text;
}

absl::StatusOr<CheckpointText> CheckpointText::FromFolder(const std::string& folder,
                                                          int64_t vocab_size) {
  if (vocab_size <= 0 || vocab_size > INT32_MAX) {
    return absl::InvalidArgumentError(absl::StrCat("a model can't have ", vocab_size, " tokens."));
  }
  absl::StatusOr<Vocabulary> read = ReadFolderVocabulary(folder);
  if (!read.ok()) return read.status();
  auto config = ReadFile(folder, "tokenizer_config.json", ReadTokenizerConfig);
  if (!config.ok()) return config.status();
  auto jinja = ReadFile(folder, "chat_template.jinja", ReadText);
  if (!jinja.ok()) return jinja.status();
  auto tool_use = ReadFile(folder, "additional_chat_templates/tool_use.jinja", ReadText);
  if (!tool_use.ok()) return tool_use.status();
  auto generation = ReadFile(folder, "generation_config.json", ReadGenerationConfig);
  if (!generation.ok()) return generation.status();

  CheckpointText text;
  text.vocabulary = *std::move(read);
  Vocabulary& vocabulary = text.vocabulary;
  if (*config) {
    if (absl::Status status = Apply(**config, vocabulary); !status.ok()) return status;
    text.chat_template = (*config)->chat_template;
    text.tool_use_template = (*config)->tool_use_template;
  }
  if (*jinja) {
    text.chat_template = *std::move(*jinja);
    text.tool_use_template = *std::move(tool_use);
  }
  if (absl::Status status = Fit(vocab_size, vocabulary); !status.ok()) return status;
  TypeMarkers(
      absl::StrCat(text.chat_template.value_or(""), "\n", text.tool_use_template.value_or("")),
      vocabulary);
  std::vector<int32_t> ends = {vocabulary.eos_token};
  if (*generation) {
    text.sampling = (*generation)->sampling;
    for (const int64_t id : (*generation)->end_tokens) {
      if (id < 0 || id >= vocab_size) {
        return absl::InvalidArgumentError(
            absl::StrCat("generation_config.json: eos_token_id names ", id, ", but the model has ",
                         vocab_size, " tokens."));
      }
      ends.push_back(static_cast<int32_t>(id));
    }
  }
  vocabulary.end_of_generation = EndOfGenerationTokens(vocabulary, std::move(ends));
  text.tokenizer = Tokenizer::Create(vocabulary);
  return text;
}

}  // namespace winnow

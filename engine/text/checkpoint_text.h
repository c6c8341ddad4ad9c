#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/gguf.h"
#include "engine/text/sampling_defaults.h"
#include "engine/text/tokenizer.h"
#include "engine/text/vocabulary.h"

namespace winnow {

/// What a checkpoint says about text, whatever files it consists of.
struct CheckpointText {
  Vocabulary vocabulary;
  std::unique_ptr<Tokenizer> tokenizer;
  /// The chat template, a Jinja program; none if the checkpoint has none.
  std::optional<std::string> chat_template;
  /// Another for conversations with tools, named "tool_use"; none: the same.
  std::optional<std::string> tool_use_template;
  /// How its authors sample it; unset where they don't say, as no GGUF file does.
  SamplingDefaults sampling;

  /// Of a GGUF file: `tokenizer.*`. Errors are those of ReadVocabulary.
  static absl::StatusOr<CheckpointText> FromGguf(const GgufFile& file);

  /// Of a Hugging Face folder: `tokenizer.json`, else `tokenizer.model`; of what there is of
  /// `tokenizer_config.json`, `chat_template.jinja` and `generation_config.json` the special
  /// tokens, the templates, the tokens that end a generation, and how to sample. Templates in files
  /// of their own, the second in `additional_chat_templates/tool_use.jinja`, replace both of the
  /// configuration, as in transformers. The vocabulary has
  /// `vocab_size` tokens, as many as the model's embedding has rows (more than INT32_MAX are
  /// refused): rows beyond the tokenizer's are tokens that stand for nothing, and added tokens
  /// beyond the rows, which the model can't read, are left out.
  ///
  /// NOT_FOUND when the folder has no tokenizer, INVALID_ARGUMENT or UNIMPLEMENTED with one
  /// sentence that names the file and what in it is wrong, or is beyond Winnow.
  static absl::StatusOr<CheckpointText> FromFolder(const std::string& folder, int64_t vocab_size);
};

}  // namespace winnow

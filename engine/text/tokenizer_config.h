#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/added_tokens.h"

namespace winnow {

/// What a tokenizer_config.json says. Special tokens are named by their spelling; empty: there is
/// none.
struct TokenizerConfig {
  std::string bos, eos, unknown;
  std::optional<bool> adds_bos;  ///< unset: as the tokenizer's own file says
  std::vector<AddedTokenEntry> added;
  /// Chat templates: of several those named "default" and "tool_use".
  std::optional<std::string> chat_template, tool_use_template;
};

/// Reads a tokenizer_config.json. `add_eos_token` is left out: a text that is served is continued.
/// INVALID_ARGUMENT with one sentence that names the key at fault.
absl::StatusOr<TokenizerConfig> ReadTokenizerConfig(std::string_view json);

}  // namespace winnow

#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace winnow {

/// A tensor of a Hugging Face folder by the name that GGUF files, and so the engine, give it.
struct FolderName {
  std::string name;
  int expert = -1;  ///< which of the matrices stacked under that name; -1: it is not stacked
};

/// What a tensor is called in GGUF files; `post_norms` as ModelConfig has it: families with norms
/// behind their modules have another one under a name that others use. None when Winnow knows no
/// such tensor.
std::optional<FolderName> TranslateFolderName(std::string_view name, bool post_norms);

/// Whether a tensor may be left out: computed from the configuration (old files' RoPE frequencies),
/// or of what is beside the text model (an image encoder).
bool IsLeftOut(std::string_view name);

}  // namespace winnow

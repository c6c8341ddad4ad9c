#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/checkpoint.h"
#include "engine/text/chat_template.h"
#include "engine/text/checkpoint_text.h"

namespace winnow {

/// A model's checkpoint and what reads its text: everything but the loaded weights.
struct ModelFile {
  std::unique_ptr<Checkpoint> checkpoint;
  CheckpointText text;
  absl::StatusOr<ChatTemplate> chat = absl::NotFoundError("the model has no chat template");

  const ModelConfig& config() const { return checkpoint->config(); }

  /// Errors are those of Checkpoint::Open, and of CheckpointText::FromGguf or FromFolder. Sequences
  /// will have at most `context` tokens, 0: as many as the model was trained for. Logs which
  /// markers are known by their looks only.
  static absl::StatusOr<ModelFile> Open(const std::string& path, int context = 0);
};

/// The file's name without directory, ".gguf" and a part's number, in UTF-8: what a model is called
/// when nobody says.
std::string ModelNameFromPath(const std::string& path);

}  // namespace winnow

#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "engine/model/gguf.h"
#include "engine/model/weight_source.h"

namespace winnow {

/// A model's files, opened and checked: what they say of it, and its weights by the names that GGUF
/// files give them.
class Checkpoint {
 public:
  /// Opens a Hugging Face folder, a GGUF file, or the first of several. Sequences will have at most
  /// `context` tokens, 0: as many as the model was trained for. The errors of GgufFile::Open and
  /// ModelConfig::FromGguf, or of ReadFolderConfig, FolderWeights::Open and CheckTensors.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& path, int context = 0);

  const std::string& path() const { return path_; }
  /// Of all files that hold weights.
  int64_t file_bytes() const { return file_bytes_; }
  const ModelConfig& config() const { return config_; }
  const WeightSource& weights() const { return *weights_; }

  /// All that the files hold.
  std::span<const WeightInfo> tensors() const { return tensors_; }
  /// The tensor of that name, or null.
  const WeightInfo* FindTensor(std::string_view name) const;

  /// The GGUF file, which tells of the tokenizer, too; null for a folder, at path().
  const GgufFile* gguf() const { return gguf_; }

 private:
  Checkpoint(std::string path, ModelConfig config, std::unique_ptr<const WeightSource> weights,
             std::vector<WeightInfo> tensors, int64_t file_bytes);

  static absl::StatusOr<std::unique_ptr<Checkpoint>> OpenGguf(const std::string& path, int context);
  static absl::StatusOr<std::unique_ptr<Checkpoint>> OpenFolder(const std::string& path,
                                                                int context);

  const std::string path_;
  const ModelConfig config_;
  const std::unique_ptr<const WeightSource> weights_;
  const std::vector<WeightInfo> tensors_;
  const int64_t file_bytes_;
  std::map<std::string_view, const WeightInfo*> tensor_index_;
  const GgufFile* gguf_ = nullptr;  ///< the weights, where they are one
};

}  // namespace winnow

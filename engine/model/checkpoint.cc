#include "engine/model/checkpoint.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "engine/model/folder_config.h"
#include "engine/model/folder_weights.h"
#include "engine/model/tensor_check.h"

namespace winnow {

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& path, int context) {
  std::error_code error;
  return std::filesystem::is_directory(path, error) ? OpenFolder(path, context)
                                                    : OpenGguf(path, context);
}

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::OpenGguf(const std::string& path,
                                                                 int context) {
  absl::StatusOr<std::unique_ptr<GgufFile>> file = GgufFile::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<ModelConfig> config = ModelConfig::FromGguf(**file, context);
  if (!config.ok()) return config.status();
  const GgufFile& gguf = **file;
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint(path, *std::move(config), *std::move(file),
                                                        gguf.Tensors(), gguf.file_bytes()));
  checkpoint->gguf_ = &gguf;
  return checkpoint;
}

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::OpenFolder(const std::string& path,
                                                                   int context) {
  absl::StatusOr<ModelConfig> config = ReadFolderConfig(path, context);
  if (!config.ok()) return config.status();
  absl::StatusOr<std::unique_ptr<FolderWeights>> weights = FolderWeights::Open(path, *config);
  if (!weights.ok()) return weights.status();
  std::vector<WeightInfo> tensors = (*weights)->Tensors();
  if (absl::Status status = CheckTensors(path, tensors, *config); !status.ok()) return status;
  const int64_t file_bytes = (*weights)->file_bytes();
  return std::unique_ptr<Checkpoint>(new Checkpoint(path, *std::move(config), *std::move(weights),
                                                    std::move(tensors), file_bytes));
}

Checkpoint::Checkpoint(std::string path, ModelConfig config,
                       std::unique_ptr<const WeightSource> weights, std::vector<WeightInfo> tensors,
                       int64_t file_bytes)
    : path_(std::move(path)),
      config_(std::move(config)),
      weights_(std::move(weights)),
      tensors_(std::move(tensors)),
      file_bytes_(file_bytes) {
  for (const WeightInfo& tensor : tensors_) tensor_index_.emplace(tensor.name, &tensor);
}

const WeightInfo* Checkpoint::FindTensor(std::string_view name) const {
  const auto entry = tensor_index_.find(name);
  return entry == tensor_index_.end() ? nullptr : entry->second;
}

}  // namespace winnow

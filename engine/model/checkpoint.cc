#include "engine/model/checkpoint.h"

#include <utility>

namespace winnow {

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& path, int context) {
  absl::StatusOr<std::unique_ptr<GgufFile>> file = GgufFile::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<ModelConfig> config = ModelConfig::FromGguf(**file, context);
  if (!config.ok()) return config.status();
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint());
  checkpoint->path_ = path;
  checkpoint->file_bytes_ = (*file)->file_bytes();
  checkpoint->config_ = *std::move(config);
  for (const GgufFile::Tensor& tensor : (*file)->tensors()) {
    checkpoint->tensor_index_.emplace(tensor.name, checkpoint->tensors_.size());
    checkpoint->tensors_.push_back(
        {tensor.name, tensor.type, tensor.shape, static_cast<int64_t>(tensor.data.size())});
  }
  checkpoint->weights_ = file->get();
  checkpoint->gguf_ = *std::move(file);
  return checkpoint;
}

const Checkpoint::Tensor* Checkpoint::FindTensor(std::string_view name) const {
  const auto entry = tensor_index_.find(name);
  return entry == tensor_index_.end() ? nullptr : &tensors_[entry->second];
}

}  // namespace winnow

#pragma once

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
#include "kernels/data_type.h"

namespace winnow {

/// A model's files, opened and checked: what they say of it, and its weights.
class Checkpoint {
 public:
  /// A weight, by the name and in the shape that GGUF files give it.
  struct Tensor {
    std::string name;
    DataType type;
    std::vector<int64_t> shape;  ///< outermost first, 1 to 4 entries
    int64_t bytes = 0;
  };

  /// Opens a GGUF file, or the first of several. Sequences will have at most `context` tokens, 0:
  /// as many as the model was trained for. The errors of GgufFile::Open and ModelConfig::FromGguf.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& path, int context = 0);

  const std::string& path() const { return path_; }
  /// Of all files that hold weights.
  int64_t file_bytes() const { return file_bytes_; }
  const ModelConfig& config() const { return config_; }
  const WeightSource& weights() const { return *weights_; }

  /// All that the files hold, in their order.
  std::span<const Tensor> tensors() const { return tensors_; }
  /// The tensor of that name, or null.
  const Tensor* FindTensor(std::string_view name) const;

  /// What tells of the tokenizer, too.
  const GgufFile& gguf() const { return *gguf_; }

 private:
  Checkpoint() = default;

  std::string path_;
  int64_t file_bytes_ = 0;
  ModelConfig config_;
  std::vector<Tensor> tensors_;
  std::map<std::string, size_t, std::less<>> tensor_index_;
  std::unique_ptr<const GgufFile> gguf_;
  const WeightSource* weights_ = nullptr;  ///< of what is held above
};

}  // namespace winnow

#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "engine/model/quantized_folder.h"
#include "engine/model/safetensors_folder.h"
#include "engine/model/weight_source.h"

namespace winnow {

/// The weights of a Hugging Face folder as GGUF files of the same model hold them: by their names,
/// with queries' and keys' rows in the order that adjacent pairs are rotated in, Gemma's norms with
/// the 1 added that the forward pass of Hugging Face adds, and experts stacked. Quantised matrices
/// are fp32.
class FolderWeights : public WeightSource {
 public:
  /// REQUIRES: `config` is what the folder's config.json says, but for what tensors tell. The
  /// errors of SafetensorsFolder::Open, ReadFolderQuantization and OpenQuantizedMatrices;
  /// UNIMPLEMENTED for a tensor that Winnow does not know or can't compute with, INVALID_ARGUMENT
  /// for experts that can't be stacked or rows that are no heads.
  static absl::StatusOr<std::unique_ptr<FolderWeights>> Open(const std::string& folder,
                                                             const ModelConfig& config);

  /// All weights, in the order of their names.
  std::vector<WeightInfo> Tensors() const;
  int64_t file_bytes() const { return files_.file_bytes(); }

  HostWeight Weight(std::string_view name) const override;
  void ReleasePages() const override { files_.ReleasePages(); }

 private:
  /// In what a GGUF file's tensor differs from the folder's.
  enum class Change { kNone, kPairRows, kAddOne, kStack };

  /// A tensor of the folder, or a matrix that several store.
  struct Part {
    std::string name;  ///< in the folder
    DataType type = DataType::kF32;
    std::vector<int64_t> shape;
    std::span<const std::byte> data;             ///< empty if it is quantised
    const QuantizedMatrix* quantized = nullptr;  ///< null if it is not

    /// Writes all bytes, those of fp32 if it is quantised.
    void CopyTo(std::byte* to) const;
  };

  struct Entry {
    WeightInfo info;
    Change change = Change::kNone;
    std::vector<Part> parts;  ///< one, or one for each expert; without a name: none yet
  };

  FolderWeights(SafetensorsFolder files, int head_dim)
      : files_(std::move(files)), head_dim_(head_dim) {}

  absl::Status AddAll(const std::string& folder, const ModelConfig& config);
  absl::Status Add(const std::string& folder, const ModelConfig& config, Part part);
  void LeaveOutZeroBiases(const ModelConfig& config);
  absl::Status Describe(const std::string& folder, const ModelConfig& config);

  SafetensorsFolder files_;      ///< what the parts point into
  QuantizedMatrices quantized_;  ///< likewise
  int head_dim_;
  std::map<std::string, Entry, std::less<>> entries_;
};

}  // namespace winnow

#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/mapped_file.h"
#include "engine/model/weight_source.h"
#include "kernels/data_type.h"

namespace winnow {

/// A GGUF v3 file, or all files of a model that is split over several, mapped read-only. Every
/// count, length and offset is checked against the file's size before use, so that a truncated or
/// hostile file yields an error, never a crash or a large allocation.
/// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
class GgufFile : public WeightSource {
 public:
  /// One metadata value. Integers of all widths widen to 64 bits; arrays of integers, booleans and
  /// floats widen likewise. Arrays of arrays are refused at open.
  using Value = std::variant<uint64_t, int64_t, double, bool, std::string, std::vector<int64_t>,
                             std::vector<double>, std::vector<std::string>>;

  struct Tensor {
    std::string name;
    DataType type;
    /// Outermost first, so a matrix is [rows, columns] with contiguous columns. 1 to 4 entries.
    std::vector<int64_t> shape;
    /// Points into the mapping; lives as long as the GgufFile.
    std::span<const std::byte> data;
  };

  /// Maps and validates the file, and the others when it says that it is the first of several,
  /// which are named NAME-00001-of-00003.gguf and so on. NOT_FOUND when there is none,
  /// INVALID_ARGUMENT with the path and the reason when one is no valid GGUF v3 file, holds a
  /// tensor type that Winnow can't compute, or is not the part that its name says.
  static absl::StatusOr<std::unique_ptr<GgufFile>> Open(const std::string& path);

  /// Of the first file, as are metadata.
  const std::string& path() const { return path_; }
  /// Of all files.
  int64_t file_bytes() const;
  const std::map<std::string, Value, std::less<>>& metadata() const { return metadata_; }
  const std::vector<Tensor>& tensors() const { return tensors_; }
  /// The same without their data.
  std::vector<WeightInfo> Tensors() const;

  /// REQUIRES: the file has a tensor of that name.
  HostWeight Weight(std::string_view name) const override;

  /// The tensor of that name, or null.
  const Tensor* FindTensor(std::string_view name) const;

  /// Typed metadata. NOT_FOUND when the key is absent, INVALID_ARGUMENT when it has another type.
  /// GetInt accepts every integer type in the range of int64; GetFloat accepts integers too.
  absl::StatusOr<int64_t> GetInt(std::string_view key) const;
  absl::StatusOr<double> GetFloat(std::string_view key) const;
  absl::StatusOr<bool> GetBool(std::string_view key) const;
  absl::StatusOr<std::string> GetString(std::string_view key) const;
  /// Pointers into this object, not copies: vocabularies are large.
  absl::StatusOr<const std::vector<std::string>*> GetStrings(std::string_view key) const;
  absl::StatusOr<const std::vector<int64_t>*> GetInts(std::string_view key) const;
  absl::StatusOr<const std::vector<double>*> GetFloats(std::string_view key) const;

  void ReleasePages() const override;

 private:
  GgufFile() = default;
  absl::Status AddParts(int64_t count);

  std::string path_;
  std::vector<MappedFile> files_;
  std::map<std::string, Value, std::less<>> metadata_;
  std::vector<Tensor> tensors_;
  std::map<std::string, size_t, std::less<>> tensor_index_;
};

}  // namespace winnow

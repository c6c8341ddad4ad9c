#include "engine/model/weight_loader.h"

#include <cstddef>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/data_type.h"

namespace winnow {
namespace {

absl::Status Annotate(const absl::Status& status, const std::string& name) {
  return absl::Status(status.code(),
                      absl::StrCat("tensor ", name, ": ", std::string(status.message())));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Matrix>> WeightLoader::LoadMatrix(
    std::span<const std::string> names) const {
  std::vector<HostWeight> weights;
  std::vector<HostMatrix> parts;
  for (const std::string& name : names) {
    parts.push_back(weights.emplace_back(source_.Weight(name)).matrix);
  }
  absl::StatusOr<std::unique_ptr<Matrix>> matrix = backend_.LoadMatrix(parts);
  if (!matrix.ok()) return Annotate(matrix.status(), names[0]);
  return matrix;
}

absl::StatusOr<std::unique_ptr<Matrix>> WeightLoader::LoadExperts(
    std::span<const std::string> names, int experts) const {
  std::vector<HostWeight> weights;
  for (const std::string& name : names) weights.push_back(source_.Weight(name));
  std::vector<HostMatrix> parts;
  for (int expert = 0; expert < experts; ++expert) {
    for (const HostWeight& weight : weights) {
      const HostMatrix& stack = weight.matrix;
      const size_t bytes = stack.data.size() / static_cast<size_t>(experts);
      parts.push_back({stack.type, stack.rows / experts, stack.columns,
                       stack.data.subspan(static_cast<size_t>(expert) * bytes, bytes)});
    }
  }
  absl::StatusOr<std::unique_ptr<Matrix>> matrix = backend_.LoadMatrix(parts);
  if (!matrix.ok()) return Annotate(matrix.status(), names[0]);
  return matrix;
}

absl::StatusOr<DeviceFloats> WeightLoader::LoadVector(std::span<const std::string> names) const {
  std::vector<float> values;
  for (const std::string& name : names) {
    const HostWeight weight = source_.Weight(name);
    const HostMatrix& part = weight.matrix;
    values.resize(values.size() + part.columns);
    Dequantize(part.type, part.data.data(), part.columns, &*(values.end() - part.columns));
  }
  absl::StatusOr<DeviceFloats> floats = DeviceFloats::Upload(values, backend_);
  if (!floats.ok()) return Annotate(floats.status(), names[0]);
  return floats;
}

absl::StatusOr<std::unique_ptr<Matrix>> WeightLoader::LoadEmbedding(const std::string& name) const {
  absl::StatusOr<std::unique_ptr<Matrix>> table =
      backend_.LoadEmbedding(source_.Weight(name).matrix);
  if (!table.ok()) return Annotate(table.status(), name);
  return table;
}

}  // namespace winnow

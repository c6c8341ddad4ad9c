#include "engine/model/folder_weights.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/model/folder_names.h"
#include "engine/model/folder_quantization.h"
#include "engine/model/model_spec.h"
#include "kernels/data_type.h"
#include "kernels/float16.h"
#include "kernels/rope.h"

namespace winnow {
namespace {

constexpr size_t kMaxDimensions = 3;  // before experts are stacked

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

template <typename... Parts>
absl::Status Unimplemented(const Parts&... parts) {
  return absl::UnimplementedError(absl::StrCat(parts...));
}

bool IsQueryOrKey(std::string_view name) {
  for (const std::string_view end :
       {"attn_q.weight", "attn_q.bias", "attn_k.weight", "attn_k.bias"}) {
    if (name.ends_with(end)) return true;
  }
  return false;
}

/// The rows of each head of `head_dim`, of which the first half rotates with the second, so that
/// neighbours rotate together.
void PairRows(const std::byte* from, int64_t rows, int64_t row_bytes, int head_dim, std::byte* to) {
  const int half = head_dim / 2;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t head = row - row % head_dim;
    const auto within = static_cast<int>(row % head_dim);
    const int64_t paired = head + (within % half) * 2 + within / half;
    std::memcpy(to + paired * row_bytes, from + row * row_bytes, row_bytes);
  }
}

/// A norm's weights with 1 added, in fp32. Those of fp16 are rounded to it first, as where they are
/// added by converters.
void AddOne(DataType type, const std::byte* from, int64_t count, float* to) {
  Dequantize(type, from, count, to);
  for (int64_t i = 0; i < count; ++i) {
    to[i] += 1;
    if (type == DataType::kF16) to[i] = HalfToFloat(FloatToHalf(to[i]));
  }
}

std::unique_ptr<std::byte[]> NotZeroed(int64_t bytes) {
  return std::unique_ptr<std::byte[]>(new std::byte[static_cast<size_t>(bytes)]);
}

}  // namespace

void FolderWeights::Part::CopyTo(std::byte* to) const {
  if (quantized != nullptr) {
    quantized->Widen(reinterpret_cast<float*>(to));
  } else {
    std::memcpy(to, data.data(), data.size());
  }
}

absl::StatusOr<std::unique_ptr<FolderWeights>> FolderWeights::Open(const std::string& folder,
                                                                   const ModelConfig& config) {
  absl::StatusOr<SafetensorsFolder> files = SafetensorsFolder::Open(folder);
  if (!files.ok()) return files.status();
  std::unique_ptr<FolderWeights> weights(new FolderWeights(*std::move(files), config.head_dim));
  absl::Status status = weights->AddAll(folder, config);
  if (!status.ok()) return status;
  weights->LeaveOutZeroBiases(config);
  status = weights->Describe(folder, config);
  if (!status.ok()) return status;
  return weights;
}

absl::Status FolderWeights::AddAll(const std::string& folder, const ModelConfig& config) {
  const absl::StatusOr<FolderQuantization> quantization = ReadFolderQuantization(folder);
  if (!quantization.ok()) return quantization.status();
  absl::StatusOr<QuantizedMatrices> quantized =
      OpenQuantizedMatrices(folder, *quantization, files_.tensors());
  if (!quantized.ok()) return quantized.status();
  quantized_ = *std::move(quantized);
  for (const auto& [name, tensor] : files_.tensors()) {
    if (quantized_.tensors.contains(name) || IsLeftOut(name)) continue;
    if (!TranslateFolderName(name, config.post_norms)) {
      return Unimplemented(folder, ": the tensor ", name, " is not supported in ",
                           config.architecture, " models");
    }
    if (!tensor.type->supported) {
      return Unimplemented(folder, ": the tensor ", name, " is of type ", tensor.type->name,
                           "; supported are F32, F16 and BF16");
    }
    if (tensor.shape.empty() || tensor.shape.size() > kMaxDimensions || tensor.data.empty()) {
      return Invalid(folder, ": the tensor ", name, " has ", tensor.shape.size(),
                     " dimensions and ", tensor.data.size(), " bytes; 1 to ", kMaxDimensions,
                     " dimensions are possible, and no empty tensors");
    }
    const absl::Status status =
        Add(folder, config, {name, *tensor.type->supported, tensor.shape, tensor.data});
    if (!status.ok()) return status;
  }
  for (const auto& [name, matrix] : quantized_.matrices) {
    if (IsLeftOut(name)) continue;
    const absl::Status status =
        Add(folder, config,
            {name, DataType::kF32, {matrix->rows(), matrix->columns()}, {}, matrix.get()});
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status FolderWeights::Add(const std::string& folder, const ModelConfig& config, Part part) {
  const std::optional<FolderName> known = TranslateFolderName(part.name, config.post_norms);
  if (!known || (part.quantized != nullptr && known->name == "token_embd.weight")) {
    return Unimplemented(folder, ": the tensor ", part.name, " is not supported in ",
                         part.quantized != nullptr ? "quantised " : "", config.architecture,
                         " models");
  }
  // Files may hold the table twice.
  if (config.tied_embeddings && known->name == "output.weight") return absl::OkStatus();
  Entry& entry = entries_[known->name];
  const auto place = static_cast<size_t>(known->expert < 0 ? 0 : known->expert);
  const bool is_stacked = known->expert >= 0;
  if (is_stacked && known->expert >= config.mixture.experts) {
    return Invalid(folder, ": the tensor ", part.name, " is of an expert beyond the ",
                   config.mixture.experts, " that the model has");
  }
  if (entry.parts.empty()) {
    entry.parts.resize(is_stacked ? static_cast<size_t>(config.mixture.experts) : 1);
    if (is_stacked) entry.change = Change::kStack;
  }
  if (is_stacked != (entry.change == Change::kStack) || !entry.parts[place].name.empty()) {
    return Invalid(folder, ": the tensor ", part.name, " is there twice, under another name");
  }
  entry.parts[place] = std::move(part);
  return absl::OkStatus();
}

void FolderWeights::LeaveOutZeroBiases(const ModelConfig& config) {
  std::set<std::string> wanted;
  for (const TensorSpec& tensor : ModelSpec::Of(config).tensors) wanted.insert(tensor.name);
  const auto is_zero = [](const Part& part) {
    return !part.name.empty() &&
           std::ranges::all_of(part.data, [](std::byte b) { return b == std::byte{0}; });
  };
  std::erase_if(entries_, [&](const auto& named) {
    const auto& [name, entry] = named;
    return name.ends_with(".bias") && !wanted.contains(name) &&
           std::ranges::all_of(entry.parts, is_zero);
  });
}

absl::Status FolderWeights::Describe(const std::string& folder, const ModelConfig& config) {
  const bool adjacent = config.ropes[0].pairing == RopePairing::kAdjacent;
  const bool adds_one = config.architecture.starts_with("gemma");
  for (auto& [name, entry] : entries_) {
    const Part& first = entry.parts[0];
    for (size_t place = 0; place < entry.parts.size(); ++place) {
      const Part& part = entry.parts[place];
      if (part.name.empty()) {
        return Invalid(folder, ": expert ", place, " has no matrix for ", name);
      }
      if (part.shape != first.shape || part.type != first.type) {
        return Invalid(folder, ": the tensor ", part.name, " differs in shape or type from ",
                       first.name);
      }
    }
    entry.info = {name, first.type, first.shape, 0};
    if (entry.change == Change::kStack) {
      entry.info.shape.insert(entry.info.shape.begin(), static_cast<int64_t>(entry.parts.size()));
    } else if (adjacent && IsQueryOrKey(name)) {
      entry.change = Change::kPairRows;
      if (first.shape[0] % config.head_dim != 0) {
        return Invalid(folder, ": the tensor ", first.name, " has ", first.shape[0],
                       " rows, which are no heads of ", config.head_dim);
      }
    } else if (adds_one && name.ends_with("norm.weight")) {
      entry.change = Change::kAddOne;
      entry.info.type = DataType::kF32;
    }
    int64_t rows = 1;
    for (size_t i = 0; i + 1 < entry.info.shape.size(); ++i) rows *= entry.info.shape[i];
    entry.info.bytes = rows * RowBytes(entry.info.type, entry.info.shape.back());
  }
  return absl::OkStatus();
}

std::vector<WeightInfo> FolderWeights::Tensors() const {
  std::vector<WeightInfo> tensors;
  for (const auto& [name, entry] : entries_) tensors.push_back(entry.info);
  return tensors;
}

HostWeight FolderWeights::Weight(std::string_view name) const {
  const auto found = entries_.find(name);
  assert(found != entries_.end());
  const Entry& entry = found->second;
  const Part& first = entry.parts[0];
  const int64_t columns = entry.info.shape.back();
  const int64_t row_bytes = RowBytes(entry.info.type, columns);
  HostMatrix matrix{entry.info.type, entry.info.bytes / row_bytes, columns, first.data};
  if (entry.change == Change::kNone && first.quantized == nullptr) return matrix;
  std::unique_ptr<std::byte[]> memory = NotZeroed(entry.info.bytes);
  switch (entry.change) {
    case Change::kNone:
      first.CopyTo(memory.get());
      break;
    case Change::kPairRows: {
      // A bias is a row here, and a column of heads.
      const int64_t rows = entry.info.shape[0];
      const std::byte* stored = first.data.data();
      std::unique_ptr<std::byte[]> widened;
      if (first.quantized != nullptr) {
        widened = NotZeroed(entry.info.bytes);
        first.CopyTo(widened.get());
        stored = widened.get();
      }
      PairRows(stored, rows, entry.info.bytes / rows, head_dim_, memory.get());
      break;
    }
    case Change::kAddOne:
      AddOne(first.type, first.data.data(), entry.info.bytes / 4,
             reinterpret_cast<float*>(memory.get()));
      break;
    case Change::kStack: {
      const auto parts = static_cast<int64_t>(entry.parts.size());
      for (int64_t i = 0; i < parts; ++i) {
        entry.parts[static_cast<size_t>(i)].CopyTo(memory.get() + i * (entry.info.bytes / parts));
      }
      break;
    }
  }
  matrix.data = {memory.get(), static_cast<size_t>(entry.info.bytes)};
  return {matrix, std::move(memory)};
}

}  // namespace winnow

#include "engine/model/fingerprint.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/model/gguf_rope.h"
#include "engine/model/model_spec.h"
#include "kernels/data_type.h"

namespace winnow {
namespace {

// Parts tell weights apart as well as the whole does, and leave most pages of a file alone.
constexpr int64_t kPartBytes = 4096;

/// The first, the middle and the last `part` of `total`: where they begin.
std::vector<int64_t> PartBegins(int64_t total, int64_t part) {
  return {0, (total - part) / 2, total - part};
}

/// What makes queries and keys of the residual stream.
std::vector<std::string> QueryAndKeyTensors(const ModelConfig& config) {
  std::vector<std::string> tensors;
  for (const BlockSpec& block : ModelSpec::Of(config).blocks) {
    const AttentionSpec& attention = block.attention;
    for (const std::vector<std::string>* names : {&attention.qkv.weights, &attention.qkv.biases}) {
      const size_t count = std::min<size_t>(2, names->size());
      tensors.insert(tensors.end(), names->begin(), names->begin() + count);
    }
    for (const std::string& norm : {attention.query_norm, attention.key_norm}) {
      if (!norm.empty()) tensors.push_back(norm);
    }
  }
  return tensors;
}

void AddNumber(uint64_t number, ContentHash& hash) { hash.Add(absl::StrCat(number, ";")); }

/// A tensor as it is stored.
void AddStored(const GgufFile& gguf, const std::string& name, ContentHash& hash) {
  const GgufFile::Tensor* tensor = gguf.FindTensor(name);
  if (tensor == nullptr) return;
  hash.Add(absl::StrCat(name, ":", DataTypeName(tensor->type), ";"));
  for (const int64_t size : tensor->shape) AddNumber(static_cast<uint64_t>(size), hash);
  const auto bytes = static_cast<int64_t>(tensor->data.size());
  const int64_t part = std::min(bytes, kPartBytes);
  for (const int64_t begin : PartBegins(bytes, part)) hash.Add(tensor->data.subspan(begin, part));
}

/// What the file says of RoPE. Keys are hashed as it states them, not as the frequencies that are
/// computed from them: those differ in the last bit between machines.
void AddStoredRope(const GgufFile& gguf, const ModelConfig& config, ContentHash& hash) {
  AddStored(gguf, kRopeFactorsTensor, hash);
  if (gguf.FindTensor(kLongRopeFactorsTensor) != nullptr) {
    // Labels of keys that rotate by the one kind of factors do not fit the other.
    for (const double frequency : config.ropes[0].frequencies) {
      hash.Add(absl::StrCat(frequency, ";"));  // six digits
    }
  }
  const std::string prefix = config.architecture + ".rope.";
  for (const auto& [key, value] : gguf.metadata()) {
    if (key.rfind(prefix, 0) != 0) continue;
    hash.Add(key);
    std::visit(
        [&](const auto& held) {
          using T = std::decay_t<decltype(held)>;
          if constexpr (std::is_same_v<T, std::string>) {
            hash.Add(held);
          } else if constexpr (std::is_arithmetic_v<T>) {
            hash.Add(std::as_bytes(std::span(&held, 1)));
          }
        },
        value);
  }
}

/// A tensor's numbers, of whatever float type.
void AddNumbers(const Checkpoint& checkpoint, const WeightInfo& tensor, ContentHash& hash) {
  hash.Add(absl::StrCat(tensor.name, ":numbers;"));
  for (const int64_t size : tensor.shape) AddNumber(static_cast<uint64_t>(size), hash);
  const HostWeight weight = checkpoint.weights().Weight(tensor.name);
  const int64_t elements = weight.matrix.rows * weight.matrix.columns;
  std::vector<float> part(std::min<int64_t>(elements, kPartBytes / sizeof(float)));
  for (const int64_t begin : PartBegins(elements, static_cast<int64_t>(part.size()))) {
    Dequantize(tensor.type, weight.matrix.data.data() + begin * BlockBytes(tensor.type),
               static_cast<int64_t>(part.size()), part.data());
    hash.Add(std::as_bytes(std::span(part)));
  }
}

/// RoPE as it is computed, to a percent: files of different kinds state it in different ways, of
/// which come numbers that differ in the last bits.
void AddRope(const ModelConfig& config, ContentHash& hash) {
  const auto add = [&](double number) {
    hash.Add(absl::StrCat(std::lround(64 * std::log2(number)), ";"));
  };
  for (const RopeConfig& rope : config.ropes) {
    for (const double frequency : rope.frequencies) add(frequency);
    add(rope.magnitude);
  }
}

}  // namespace

void ContentHash::Add(std::span<const std::byte> bytes) {
  for (const std::byte byte : bytes) {
    hash_ = (hash_ ^ static_cast<uint64_t>(byte)) * 0x100000001b3;
  }
}

std::string ContentHash::Hex() const { return absl::StrCat(absl::Hex(hash_, absl::kZeroPad16)); }

std::string ModelFingerprint(const Checkpoint& checkpoint) {
  const ModelConfig& config = checkpoint.config();
  const std::vector<std::string> tensors = QueryAndKeyTensors(config);
  const bool all_floats = std::ranges::all_of(tensors, [&](const std::string& name) {
    return BlockElements(checkpoint.FindTensor(name)->type) == 1;
  });
  ContentHash hash;
  AddNumber(static_cast<uint64_t>(config.heads), hash);
  if (all_floats) {
    for (const std::string& name : tensors) {
      AddNumbers(checkpoint, *checkpoint.FindTensor(name), hash);
    }
    AddRope(config, hash);
  } else {  // only GGUF files hold blocks
    for (const std::string& name : tensors) AddStored(*checkpoint.gguf(), name, hash);
    AddStoredRope(*checkpoint.gguf(), config, hash);
  }
  return hash.Hex();
}

}  // namespace winnow

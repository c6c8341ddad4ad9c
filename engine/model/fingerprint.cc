#include "engine/model/fingerprint.h"

#include <algorithm>
#include <type_traits>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/model/gguf_rope.h"
#include "engine/model/model_spec.h"

namespace winnow {

void ContentHash::Add(std::span<const std::byte> bytes) {
  for (const std::byte byte : bytes) {
    hash_ = (hash_ ^ static_cast<uint64_t>(byte)) * 0x100000001b3;
  }
}

std::string ContentHash::Hex() const { return absl::StrCat(absl::Hex(hash_, absl::kZeroPad16)); }

std::string ModelFingerprint(const Checkpoint& checkpoint) {
  const GgufFile& gguf = checkpoint.gguf();
  const ModelConfig& config = checkpoint.config();
  ContentHash hash;
  const auto add_number = [&](uint64_t number) { hash.Add(absl::StrCat(number, ";")); };
  const auto add_tensor = [&](const std::string& name) {
    const GgufFile::Tensor* tensor = gguf.FindTensor(name);
    if (tensor == nullptr) return;
    hash.Add(absl::StrCat(name, ":", DataTypeName(tensor->type), ";"));
    for (const int64_t size : tensor->shape) add_number(static_cast<uint64_t>(size));
    // Parts tell weights apart as well as the whole does, and leave most pages of the file alone.
    constexpr size_t kPartBytes = 4096;
    const std::span<const std::byte> data = tensor->data;
    const size_t part = std::min(data.size(), kPartBytes);
    hash.Add(data.first(part));
    hash.Add(data.subspan((data.size() - part) / 2, part));
    hash.Add(data.last(part));
  };
  add_number(config.heads);
  for (const BlockSpec& block : ModelSpec::Of(config).blocks) {
    const LinearSpec& qkv = block.attention.qkv;
    for (const std::vector<std::string>* names : {&qkv.weights, &qkv.biases}) {
      for (const std::string& name : std::span(*names).first(std::min<size_t>(2, names->size()))) {
        add_tensor(name);  // of queries and keys
      }
    }
  }
  add_tensor(kRopeFactorsTensor);
  if (gguf.FindTensor(kLongRopeFactorsTensor) != nullptr) {
    // Labels of keys that rotate by the one kind of factors do not fit the other.
    for (const double frequency : config.ropes[0].frequencies) {
      hash.Add(absl::StrCat(frequency, ";"));  // six digits
    }
  }
  // Keys are hashed as the file states them, not as the frequencies that are computed from them:
  // those differ in the last bit between machines.
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
  return hash.Hex();
}

}  // namespace winnow

#include "kernels/cuda/token_choices.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <new>

#include "kernels/cuda/choose_tokens.h"
#include "kernels/cuda/status.h"

namespace winnow::cuda {
namespace {

// What is brought to the device together: so many choices, and so many edits unless they are those
// of a single choice.
constexpr int64_t kChoices = 64;
constexpr int64_t kEdits = 1 << 16;

// Choices, tokens and edits lie one after another.
constexpr int64_t kTokensAt = kChoices * static_cast<int64_t>(sizeof(DeviceChoice));
constexpr int64_t kEditsAt = kTokensAt + kChoices * static_cast<int64_t>(sizeof(int32_t));
constexpr int64_t Bytes(int64_t edits) {
  return kEditsAt + edits * static_cast<int64_t>(sizeof(LogitEdit));
}

int64_t WeightBytes(int64_t choices, int64_t vocab) {
  return choices * vocab * static_cast<int64_t>(sizeof(float));
}

}  // namespace

absl::Status TokenChoices::Reserve(const StepLimits& limits, cudaStream_t stream) {
  absl::Status status =
      chosen_.Take(Bytes(std::max<int64_t>(kEdits, limits.vocab)), stream).status();
  status.Update(weights_.Take(WeightBytes(kChoices, limits.vocab), stream).status());
  return status;
}

absl::Status TokenChoices::Choose(const Tensor& logits, int first,
                                  std::span<const TokenChoice> choices, PinnedBuffer& staging,
                                  int32_t* tokens, cudaStream_t stream) {
  std::fill_n(tokens, choices.size(), kLogitsNotFinite);
  absl::Status status;
  const auto call = [&](cudaError_t error, const char* name) {
    status.Update(CudaStatus(error, name));
  };
  while (!choices.empty() && status.ok()) {
    int64_t count = 0;
    int64_t edits = 0;
    while (count < std::min(kChoices, std::ssize(choices))) {
      const int64_t more = std::ssize(choices[static_cast<size_t>(count)].edits);
      if (count > 0 && edits + more > kEdits) break;
      edits += more;
      ++count;
    }
    assert(Bytes(edits) <= staging.bytes());
    const auto memory = chosen_.Take(Bytes(edits), stream);
    if (!memory.ok()) return memory.status();
    const auto* const device_edits = reinterpret_cast<const LogitEdit*>(*memory + kEditsAt);
    int64_t edit = 0;
    bool needs_weights = false;
    for (int64_t i = 0; i < count; ++i) {
      const TokenChoice& choice = choices[static_cast<size_t>(i)];
      DeviceChoice device{.choice = choice,
                          .edits = device_edits + edit,
                          .edit_count = static_cast<int32_t>(choice.edits.size())};
      device.choice.row -= first;
      device.choice.edits = {};
      needs_weights = needs_weights || device.NeedsScratch();
      new (staging.data() + i * static_cast<int64_t>(sizeof(DeviceChoice))) DeviceChoice(device);
      if (choice.edits.empty()) continue;
      std::memcpy(staging.data() + Bytes(edit), choice.edits.data(), choice.edits.size_bytes());
      edit += device.edit_count;
    }
    float* weights = nullptr;
    if (needs_weights) {
      const auto scratch = weights_.Take(WeightBytes(count, logits.columns), stream);
      if (!scratch.ok()) return scratch.status();
      weights = reinterpret_cast<float*>(*scratch);
    }
    auto* const device_tokens = reinterpret_cast<int32_t*>(*memory + kTokensAt);
    const size_t token_bytes = static_cast<size_t>(count) * sizeof(int32_t);
    call(cudaMemcpyAsync(*memory, staging.data(), static_cast<size_t>(Bytes(edits)),
                         cudaMemcpyHostToDevice, stream),
         "cudaMemcpyAsync");
    call(LaunchChooseTokens(logits, reinterpret_cast<const DeviceChoice*>(*memory),
                            static_cast<int>(count), weights, device_tokens, stream),
         "ChooseTokens");
    call(cudaMemcpyAsync(staging.data() + kTokensAt, device_tokens, token_bytes,
                         cudaMemcpyDeviceToHost, stream),
         "cudaMemcpyAsync");
    call(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    if (status.ok()) std::memcpy(tokens, staging.data() + kTokensAt, token_bytes);
    choices = choices.subspan(static_cast<size_t>(count));
    tokens += count;
  }
  return status;
}

}  // namespace winnow::cuda

#include "kernels/cuda/token_descriptions.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>

#include "kernels/cuda/describe_tokens.h"
#include "kernels/cuda/status.h"

namespace winnow::cuda {
namespace {

// What is described together: so many tokens, and so many results unless they are those of one.
constexpr int kWanted = 64;
constexpr int64_t kResults = 4096;

constexpr int64_t kResultsAt = kWanted * static_cast<int64_t>(sizeof(WantedDescription));
constexpr int64_t Bytes(int64_t results) {
  return kResultsAt + results * static_cast<int64_t>(sizeof(TokenLogprob));
}

}  // namespace

absl::Status TokenDescriptions::Reserve(cudaStream_t stream) {
  return memory_.Take(Bytes(kResults), stream).status();
}

absl::Status TokenDescriptions::Describe(const Tensor& logits, int first,
                                         std::span<const TokenChoice> choices,
                                         const int32_t* tokens, PinnedBuffer& staging,
                                         TokenDescription* descriptions, cudaStream_t stream) {
  absl::Status status;
  const auto call = [&](cudaError_t error, const char* name) {
    status.Update(CudaStatus(error, name));
  };
  size_t next = 0;
  while (status.ok()) {
    std::array<WantedDescription, kWanted> wanted;
    std::array<TokenDescription*, kWanted> described;
    size_t count = 0;
    int64_t results = 0;
    for (; next < choices.size() && count < wanted.size(); ++next) {
      const TokenChoice& choice = choices[next];
      if (choice.alternatives < 0 || tokens[next] < 0) continue;
      const auto alternatives =
          static_cast<int32_t>(std::min<int64_t>(choice.alternatives, logits.columns));
      if (count > 0 && results + 1 + alternatives > kResults) break;
      wanted[count] = {choice.row - first, tokens[next], alternatives,
                       static_cast<int32_t>(results)};
      described[count++] = &descriptions[next];
      results += 1 + alternatives;
    }
    if (count == 0) break;

    assert(Bytes(results) <= staging.bytes());
    const auto memory = memory_.Take(Bytes(results), stream);
    if (!memory.ok()) return memory.status();
    const size_t wanted_bytes = count * sizeof(WantedDescription);
    std::memcpy(staging.data(), wanted.data(), wanted_bytes);
    call(cudaMemcpyAsync(*memory, staging.data(), wanted_bytes, cudaMemcpyHostToDevice, stream),
         "cudaMemcpyAsync");
    call(LaunchDescribeTokens(logits, reinterpret_cast<const WantedDescription*>(*memory),
                              static_cast<int>(count),
                              reinterpret_cast<TokenLogprob*>(*memory + kResultsAt), stream),
         "DescribeTokens");
    call(cudaMemcpyAsync(staging.data() + kResultsAt, *memory + kResultsAt,
                         static_cast<size_t>(Bytes(results) - kResultsAt), cudaMemcpyDeviceToHost,
                         stream),
         "cudaMemcpyAsync");
    call(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    if (!status.ok()) break;
    const auto* const of_all = reinterpret_cast<const TokenLogprob*>(staging.data() + kResultsAt);
    for (size_t i = 0; i < count; ++i) {
      const TokenLogprob* const result = of_all + wanted[i].result;
      described[i]->logprob = result->logprob;
      described[i]->alternatives.assign(result + 1, result + 1 + wanted[i].alternatives);
    }
  }
  return status;
}

}  // namespace winnow::cuda

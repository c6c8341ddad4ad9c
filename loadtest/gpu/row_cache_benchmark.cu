// Times what a decode step's attention takes in one layer whose keys and values lie in host memory,
// with copies of rows on the device, beside the same rows resident and beside streaming all of the
// context: prints a table. Steps select as the demo model does (docs/offload.md, ages at 8192):
// rows are drawn by how many steps ago they were selected. Medians over steps.

#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/decode_kernels.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/row_cache.h"
#include "kernels/cuda/tiered_memory.h"

namespace winnow::cuda {
namespace {

#define CHECK_CUDA(call)                                                  \
  do {                                                                    \
    const cudaError_t error = (call);                                     \
    if (error != cudaSuccess) {                                           \
      std::fprintf(stderr, "%s: %s\n", #call, cudaGetErrorString(error)); \
      std::exit(1);                                                       \
    }                                                                     \
  } while (false)

constexpr int kBlockTokens = 32;
constexpr int kSparsity = 16;
constexpr int kWarmUpSteps = 96;
constexpr int kSteps = 24;

// Share of a step's rows that were last selected 2^(i - 1) + 1 to 2^i steps before; the others had
// not been.
constexpr std::array<double, 10> kAges = {0.7798, 0.0699, 0.0542, 0.0364, 0.0224,
                                          0.0141, 0.0087, 0.0046, 0.0020, 0.0003};

struct Setting {
  int batch, context, heads, kv_heads, head_dim;
};

template <typename T>
T* Allocate(int64_t count) {
  T* data = nullptr;
  CHECK_CUDA(cudaMalloc(&data, count * static_cast<int64_t>(sizeof(T))));
  CHECK_CUDA(cudaMemset(data, 0, count * static_cast<int64_t>(sizeof(T))));
  return data;
}

template <typename T>
T* Upload(const std::vector<T>& host) {
  T* data = Allocate<T>(static_cast<int64_t>(host.size()));
  CHECK_CUDA(cudaMemcpy(data, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  return data;
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// Draws what one KV head of one sequence selects, step after step.
class Trace {
 public:
  Trace(int tokens, uint32_t seed) : random_(seed), by_step_(1) {
    for (int t = 0; t < tokens; ++t) by_step_[0].push_back(t);  // never selected
  }

  std::vector<int> Next(int count) {
    std::vector<int> chosen;
    for (size_t i = 0; i < kAges.size(); ++i) {
      const int first = i == 0 ? 1 : (1 << (i - 1)) + 1;
      const int most = static_cast<int>(std::lround(kAges[i] * count));
      Draw(first, std::min(1 << i, static_cast<int>(by_step_.size()) - 1), most, &chosen);
    }
    const int steps = static_cast<int>(by_step_.size());
    Draw(steps, steps, count - static_cast<int>(chosen.size()), &chosen);
    for (int age = steps; age > 0 && static_cast<int>(chosen.size()) < count; --age) {
      Draw(age, age, count - static_cast<int>(chosen.size()), &chosen);
    }
    by_step_.push_back(chosen);
    std::ranges::sort(chosen);
    return chosen;
  }

 private:
  // Up to so many rows whose age is in [first, last].
  void Draw(int first, int last, int most, std::vector<int>* chosen) {
    const int steps = static_cast<int>(by_step_.size());
    last = std::min(last, steps);
    int64_t rows = 0;
    for (int age = first; age <= last; ++age) rows += std::ssize(by_step_[steps - age]);
    for (; most > 0 && rows > 0; --most, --rows) {
      int64_t n = static_cast<int64_t>(random_() % rows);
      int age = first;
      for (; n >= std::ssize(by_step_[steps - age]); ++age) n -= std::ssize(by_step_[steps - age]);
      std::vector<int>& of_step = by_step_[steps - age];
      std::swap(of_step[n], of_step.back());
      chosen->push_back(of_step.back());
      of_step.pop_back();
    }
  }

  std::mt19937 random_;
  std::vector<std::vector<int>> by_step_;  // rows that were last selected in it
};

class Benchmark {
 public:
  explicit Benchmark(const Setting& setting) : s_(setting) {
    blocks_ = s_.batch * s_.context / kBlockTokens;
    budget_ = s_.context / kSparsity;
    block_bytes_ = int64_t{s_.kv_heads} * kBlockTokens * 4 * s_.head_dim;
    const int64_t part = *TieredRange::PartBytes();
    const auto whole = [&](int64_t blocks) {
      const int64_t bytes = (blocks * block_bytes_ + part - 1) / part * part;
      return bytes / block_bytes_ * block_bytes_ == bytes ? bytes : -1;
    };
    const int64_t bytes = whole(blocks_);
    const int64_t copies = whole(blocks_ / 2);
    if (bytes < 0 || copies < 0) std::exit(2);
    auto memory = TieredRange::Create(
        {{MemoryTier::kDevice, bytes}, {MemoryTier::kHost, bytes}, {MemoryTier::kDevice, copies}},
        [](int64_t) {});
    if (!memory.ok()) {
      std::fprintf(stderr, "%s\n", memory.status().ToString().c_str());
      std::exit(1);
    }
    memory_ = *std::move(memory);
    blocks_ = static_cast<int>(bytes / block_bytes_);
    MakeTraces();
    MakeCall();
  }

  void Run() {
    const double stream = StreamSeconds();
    const double resident = Median(Times(0, nullptr, nullptr));
    for (const double size : {0.0, 1.0, 2.0, 4.0}) {
      cache_ = {.first_host_block = blocks_,
                .host_blocks = blocks_,
                .copy_blocks = static_cast<int>(size * blocks_ / kSparsity)};
      cache_.memory = Allocate<std::byte>(RowCacheBytes(cache_, s_.kv_heads, kBlockTokens));
      std::vector<double> fetch;
      RowCacheCounts counts = {};
      const double total = Median(Times(blocks_, &fetch, &counts));
      CHECK_CUDA(cudaFree(cache_.memory));
      const double rows = static_cast<double>(counts.selected) / kSteps;
      const double bytes = 4.0 * s_.head_dim *
                           static_cast<double>(size == 0 ? s_.batch * s_.kv_heads * budget_ * kSteps
                                                         : counts.fetched + counts.direct) /
                           kSteps;
      std::printf(
          "%5d %7d %3d/%-2d %4.1fx %6.1f%% %8.2f %8.1f %6.1f %9.1f %9.1f %7.3f %10.1f %7.1f\n",
          s_.batch, s_.context, s_.heads, s_.kv_heads, size,
          size == 0
              ? 0.0
              : 100 - 100.0 * static_cast<double>(counts.fetched + counts.direct) / kSteps / rows,
          bytes / 1e6, Median(fetch) * 1e6, bytes / (size == 0 ? total : Median(fetch)) / 1e9,
          total * 1e6, resident * 1e6, resident / total, stream * 1e6, stream / total);
      std::fflush(stdout);
    }
  }

 private:
  void MakeTraces() {
    lists_.assign(kWarmUpSteps + kSteps,
                  std::vector<uint32_t>(int64_t{s_.batch} * s_.kv_heads * budget_));
    for (int item = 0; item < s_.batch * s_.kv_heads; ++item) {
      Trace trace(s_.context, item + 1);
      const int row = item / s_.kv_heads;
      const int head = item % s_.kv_heads;
      for (auto& list : lists_) {
        uint32_t* to = &list[int64_t{item} * budget_];
        for (const int token : trace.Next(budget_)) {
          const int block = row * (s_.context / kBlockTokens) + token / kBlockTokens;
          *to++ = (block * s_.kv_heads + head) * kBlockTokens + token % kBlockTokens;
        }
      }
    }
  }

  void MakeCall() {
    const int64_t row_numbers = int64_t{s_.heads} * s_.head_dim;
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> queries(s_.batch * row_numbers);
    for (float& q : queries) q = normal(random);
    std::vector<int32_t> rows(s_.batch);
    for (int i = 0; i < s_.batch; ++i) rows[i] = i;
    call_.kv_heads = s_.kv_heads;
    call_.group = s_.heads / s_.kv_heads;
    call_.head_dim = s_.head_dim;
    call_.block_tokens = kBlockTokens;
    call_.scale = 1 / std::sqrt(static_cast<float>(s_.head_dim));
    call_.kv = memory_->data();
    call_.rows = s_.batch;
    call_.query_rows = Upload(rows);
    call_.sequences = Upload(rows);
    call_.contexts = Upload(std::vector<int32_t>(s_.batch, s_.context));
    call_.selections = Upload(
        std::vector<Selection>(s_.batch, {SelectionKind::kLabels, 1.0f / kSparsity, budget_}));
    call_.block_tables = Upload(std::vector<int32_t>(s_.batch));
    call_.max_context = s_.context;
    call_.max_selected = budget_;
    call_.queries = Upload(queries);
    call_.query_stride = row_numbers;
    call_.out = Allocate<float>(s_.batch * row_numbers);
    call_.out_stride = row_numbers;
    call_.selected = Allocate<uint32_t>(int64_t{s_.batch} * s_.kv_heads * budget_);
    call_.workspace =
        Allocate<std::byte>(DecodeWorkspaceBytes(s_.batch, s_.kv_heads, s_.head_dim, s_.context));
    scratch_ = Allocate<std::byte>(FetchScratchBytes(s_.batch, s_.kv_heads, budget_));
    chosen_ = Allocate<uint32_t>(int64_t{s_.batch} * s_.kv_heads * budget_);
  }

  // Seconds that the measured steps' attention takes, each, to rows from block `first_block` on.
  // What fetching takes of it, and what it fetched.
  std::vector<double> Times(int first_block, std::vector<double>* fetch, RowCacheCounts* counts) {
    cudaEvent_t begin, middle, end;
    CHECK_CUDA(cudaEventCreate(&begin));
    CHECK_CUDA(cudaEventCreate(&middle));
    CHECK_CUDA(cudaEventCreate(&end));
    const AttendScratch attend = ScratchOf(call_).attend;
    const auto entries = static_cast<uint32_t>(first_block * s_.kv_heads * kBlockTokens);
    std::vector<double> total;
    RowCacheCounts before = {};
    for (int step = 0; step < kWarmUpSteps + kSteps; ++step) {
      std::vector<uint32_t> list = lists_[step];
      for (uint32_t& entry : list) entry += entries;
      CHECK_CUDA(
          cudaMemcpy(chosen_, list.data(), list.size() * sizeof(uint32_t), cudaMemcpyHostToDevice));
      if (counts != nullptr && step == kWarmUpSteps) before = Counts();
      // The copy is that of a step that chooses, too: what follows begins while it ends.
      CHECK_CUDA(cudaMemcpyAsync(call_.selected, chosen_, list.size() * sizeof(uint32_t),
                                 cudaMemcpyDeviceToDevice));
      CHECK_CUDA(cudaEventRecord(begin));
      if (fetch != nullptr) CHECK_CUDA(LaunchFetchRows(call_, cache_, scratch_, nullptr));
      CHECK_CUDA(cudaEventRecord(middle));
      CHECK_CUDA(LaunchAttend(call_, attend, nullptr));
      CHECK_CUDA(cudaEventRecord(end));
      CHECK_CUDA(cudaEventSynchronize(end));
      if (step < kWarmUpSteps) continue;
      float milliseconds;
      CHECK_CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
      total.push_back(milliseconds / 1e3);
      CHECK_CUDA(cudaEventElapsedTime(&milliseconds, begin, middle));
      if (fetch != nullptr) fetch->push_back(milliseconds / 1e3);
    }
    if (counts != nullptr && cache_.copy_blocks > 0) {
      const RowCacheCounts after = Counts();
      *counts = {after.selected - before.selected, after.fetched - before.fetched,
                 after.direct - before.direct};
    }
    return total;
  }

  RowCacheCounts Counts() const {
    RowCacheCounts counts = {};
    CHECK_CUDA(cudaMemcpy(&counts, CountsOf(cache_), sizeof(counts), cudaMemcpyDeviceToHost));
    return counts;
  }

  // Of all of the layer's keys and values, by the copy engine.
  double StreamSeconds() {
    cudaEvent_t begin, end;
    CHECK_CUDA(cudaEventCreate(&begin));
    CHECK_CUDA(cudaEventCreate(&end));
    const int64_t bytes = int64_t{s_.batch} * s_.context / kBlockTokens * block_bytes_;
    std::vector<double> seconds;
    for (int i = 0; i < 3; ++i) {
      CHECK_CUDA(cudaEventRecord(begin));
      CHECK_CUDA(cudaMemcpyAsync(memory_->data(), memory_->data() + blocks_ * block_bytes_, bytes,
                                 cudaMemcpyDefault));
      CHECK_CUDA(cudaEventRecord(end));
      CHECK_CUDA(cudaEventSynchronize(end));
      float milliseconds;
      CHECK_CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
      seconds.push_back(milliseconds / 1e3);
    }
    return Median(seconds);
  }

  const Setting s_;
  int blocks_ = 0;
  int budget_ = 0;
  int64_t block_bytes_ = 0;
  std::unique_ptr<TieredRange> memory_;
  std::vector<std::vector<uint32_t>> lists_;  // [steps] [batch, kv_heads, budget]
  DecodeAttention call_;
  RowCache cache_;
  std::byte* scratch_ = nullptr;
  uint32_t* chosen_ = nullptr;
};

int Main() {
  cudaDeviceProp device;
  CHECK_CUDA(cudaGetDeviceProperties(&device, 0));
  std::printf("%s, one layer, 1/%d\n", device.name, kSparsity);
  std::printf("%5s %7s %6s %5s %7s %8s %8s %6s %9s %9s %7s %10s %7s\n", "batch", "context", "heads",
              "cache", "hits", "MB", "fetch us", "GB/s", "total us", "resident", "ratio",
              "stream us", "ratio");
  for (const Setting& setting : {Setting{1, 131072, 32, 32, 128}, Setting{4, 32768, 32, 32, 128},
                                 Setting{1, 262144, 32, 8, 128}, Setting{8, 65536, 32, 8, 128}}) {
    Benchmark(setting).Run();
  }
  return 0;
}

}  // namespace
}  // namespace winnow::cuda

int main() { return winnow::cuda::Main(); }

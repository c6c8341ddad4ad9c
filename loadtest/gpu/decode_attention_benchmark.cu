// Times decode attention, dense and Double Sparsity without and with what it does not choose
// estimated, against what memory allows, and renewing the summaries that estimates are made of, by
// one piece each and of whole contexts: prints a table, writes JSON to the file named by the first
// argument. Replays of CUDA graphs over several layers' pools, so that nothing but what a layer
// itself reuses comes from the L2 cache; medians.

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/decode_kernels.h"
#include "kernels/cuda/renew_summaries.h"

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
constexpr int kSinks = 4;
constexpr int kWindow = 16;
constexpr int kReplays = 15;
// Bytes that a replay must touch before it comes back to the first layer: four times an L2 cache.
constexpr double kRotatedBytes = 200e6;

struct Shape {
  int batch;
  int context;
  int heads;
  int kv_heads;
  int head_dim;
  int width;     // of labels
  int sparsity;  // 1: dense
  bool tail;     // whether what is not chosen is estimated
};

__device__ uint32_t Hash(uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdull;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ull;
  return static_cast<uint32_t>(x ^ x >> 33);
}

// fp16 numbers between -2 and 2 with random mantissas.
__global__ void FillKv(uint32_t* words, int64_t count) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    words[i] = (Hash(i) & 0x83ff83ffu) | 0x38003800u;
  }
}

__global__ void FillLabels(uint32_t* words, int64_t count) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    words[i] = Hash(i + 1);
  }
}

// Memory of the device, allocated once: where an allocation lies changes timings by up to a fifth.
class Arena {
 public:
  void Reserve(int64_t bytes) {
    CHECK_CUDA(cudaMalloc(&data_, bytes));
    bytes_ = bytes;
  }
  void Clear() { used_ = 0; }
  std::byte* Take(int64_t bytes) {
    constexpr int64_t kAlignment = 1 << 21;
    std::byte* const taken = data_ + used_;
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (used_ > bytes_) {
      std::fprintf(stderr, "out of memory\n");
      std::exit(1);
    }
    return taken;
  }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
  int64_t used_ = 0;
};
Arena arena;
constexpr int64_t kArenaBytes = int64_t{40} << 30;

template <typename T>
T* Allocate(int64_t count) {
  return reinterpret_cast<T*>(arena.Take(count * static_cast<int64_t>(sizeof(T))));
}

template <typename T>
T* Upload(const std::vector<T>& host) {
  T* data = Allocate<T>(host.size());
  CHECK_CUDA(cudaMemcpy(data, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  return data;
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// Seconds of one replay of what `queue` puts on a stream.
double TimeGraph(const std::function<void(cudaStream_t)>& queue) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  CHECK_CUDA(cudaStreamCreate(&stream));
  CHECK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  queue(stream);
  CHECK_CUDA(cudaStreamEndCapture(stream, &graph));
  CHECK_CUDA(cudaGraphInstantiate(&executable, graph, 0));
  cudaEvent_t begin;
  cudaEvent_t end;
  CHECK_CUDA(cudaEventCreate(&begin));
  CHECK_CUDA(cudaEventCreate(&end));
  std::vector<double> seconds;
  for (int i = -3; i < kReplays; ++i) {
    CHECK_CUDA(cudaEventRecord(begin, stream));
    CHECK_CUDA(cudaGraphLaunch(executable, stream));
    CHECK_CUDA(cudaEventRecord(end, stream));
    CHECK_CUDA(cudaEventSynchronize(end));
    float milliseconds;
    CHECK_CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
    if (i >= 0) seconds.push_back(milliseconds / 1e3);
  }
  CHECK_CUDA(cudaGraphExecDestroy(executable));
  CHECK_CUDA(cudaGraphDestroy(graph));
  CHECK_CUDA(cudaStreamDestroy(stream));
  return Median(seconds);
}

// Bytes per second, read and written, of a copy within the device.
double CopyBandwidth() {
  constexpr int64_t kBytes = int64_t{4} << 30;
  constexpr int kCopies = 30;
  std::byte* const from = Allocate<std::byte>(kBytes);
  std::byte* const to = Allocate<std::byte>(kBytes);
  FillKv<<<1024, 256>>>(reinterpret_cast<uint32_t*>(from), kBytes / 4);
  std::vector<double> seconds;
  cudaEvent_t begin;
  cudaEvent_t end;
  CHECK_CUDA(cudaEventCreate(&begin));
  CHECK_CUDA(cudaEventCreate(&end));
  for (int i = -10; i < kCopies; ++i) {
    CHECK_CUDA(cudaEventRecord(begin));
    CHECK_CUDA(cudaMemcpyAsync(to, from, kBytes, cudaMemcpyDeviceToDevice));
    CHECK_CUDA(cudaEventRecord(end));
    CHECK_CUDA(cudaEventSynchronize(end));
    float milliseconds;
    CHECK_CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
    if (i >= 0) seconds.push_back(milliseconds / 1e3);
  }
  return 2.0 * kBytes / Median(seconds);
}

struct Timing {
  double bytes = 0;  // that one layer must read
  double seconds = 0;
  double select_seconds = 0;
  double attend_seconds = 0;
  double piece_seconds = 0;    // to renew all summaries by a piece
  double summary_seconds = 0;  // and to make them anew
};

Timing Measure(const Shape& shape) {
  arena.Clear();
  const int blocks_of_row = (shape.context + kBlockTokens - 1) / kBlockTokens;
  const int blocks = shape.batch * blocks_of_row;
  const int64_t tokens = int64_t{blocks} * kBlockTokens * shape.kv_heads;
  const int64_t kv_bytes = tokens * 4 * shape.head_dim;
  const int64_t label_bytes = tokens * shape.width / 2;
  const int budget =
      shape.sparsity == 1 ? shape.context : (shape.context + shape.sparsity - 1) / shape.sparsity;
  Timing timing;
  const double heads = 1.0 * shape.batch * shape.kv_heads;
  timing.bytes = heads * budget * 4 * shape.head_dim;
  if (shape.sparsity > 1) timing.bytes += heads * shape.context * shape.width / 2;
  const SummaryShape summary = {shape.width, shape.head_dim};
  if (shape.tail) timing.bytes += heads * summary.estimate_bytes();
  const int layers = std::clamp(static_cast<int>(kRotatedBytes / timing.bytes) + 1, 2, 8);

  std::mt19937 random(1);
  std::vector<int32_t> table(blocks);
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), random);
  std::vector<int32_t> rows(shape.batch);
  std::iota(rows.begin(), rows.end(), 0);
  std::normal_distribution<float> normal;
  std::vector<float> queries(int64_t{layers} * shape.batch * shape.heads * shape.head_dim);
  for (float& q : queries) q = normal(random);
  std::vector<float> basis(int64_t{shape.kv_heads} * shape.head_dim * shape.width);
  for (float& x : basis) x = 0.05f * normal(random);

  std::byte* const kv = Allocate<std::byte>(layers * kv_bytes);
  std::byte* const labels = Allocate<std::byte>(layers * label_bytes);
  FillKv<<<1024, 256>>>(reinterpret_cast<uint32_t*>(kv), layers * kv_bytes / 4);
  FillLabels<<<1024, 256>>>(reinterpret_cast<uint32_t*>(labels), layers * label_bytes / 4);
  const int64_t row_numbers = int64_t{shape.heads} * shape.head_dim;
  DecodeAttention call = {
      .kv_heads = shape.kv_heads,
      .group = shape.heads / shape.kv_heads,
      .head_dim = shape.head_dim,
      .block_tokens = kBlockTokens,
      .scale = 1 / std::sqrt(static_cast<float>(shape.head_dim)),
      .label_width = shape.width,
      .basis = {.query = Upload(basis)},
      .sinks = kSinks,
      .window = kWindow,
      .rows = shape.batch,
      .query_rows = Upload(rows),
      .sequences = Upload(rows),
      .contexts = Upload(std::vector<int32_t>(shape.batch, shape.context)),
      .selections = Upload(std::vector<Selection>(
          shape.batch, {SelectionKind::kLabels, 1.0f / static_cast<float>(shape.sparsity), 0})),
      .block_tables = Upload(table),
      .max_blocks = blocks_of_row,
      .max_context = shape.context,
      .max_selected = shape.sparsity == 1 ? 0 : budget,
      .query_stride = row_numbers,
      .out = Allocate<float>(shape.batch * row_numbers),
      .out_stride = row_numbers,
      .selected = Allocate<uint32_t>(int64_t{shape.batch} * shape.kv_heads * budget)};
  const int64_t workspace_bytes =
      DecodeWorkspaceBytes(shape.batch, shape.kv_heads, shape.head_dim, shape.context);
  call.workspace = Allocate<std::byte>(workspace_bytes);
  CHECK_CUDA(cudaMemset(call.workspace, 0, workspace_bytes));
  float* const all_queries = Upload(queries);
  const int64_t summary_floats = int64_t{shape.batch} * shape.kv_heads * summary.floats();
  const std::vector<float> tail_weights(shape.kv_heads, 1.0f);
  float* summaries = nullptr;
  if (shape.tail) {
    summaries = Allocate<float>(layers * summary_floats);
    CHECK_CUDA(cudaMemset(summaries, 0, layers * summary_floats * sizeof(float)));
    call.tail_weights = tail_weights.data();
    call.estimates = Upload(rows);
    call.tails = Allocate<float>(TailFloats(shape.batch, shape.heads, shape.head_dim));
  }
  const auto of_layer = [&](int layer) {
    DecodeAttention of_layer = call;
    if (shape.tail) of_layer.summaries = summaries + layer * summary_floats;
    of_layer.kv = kv + layer * kv_bytes;
    of_layer.labels = labels + layer * label_bytes;
    of_layer.queries = all_queries + layer * shape.batch * row_numbers;
    return of_layer;
  };
  const auto time = [&](const auto& launch) {
    return TimeGraph([&](cudaStream_t stream) {
             for (int layer = 0; layer < layers; ++layer) {
               CHECK_CUDA(launch(of_layer(layer), stream));
             }
           }) /
           layers;
  };
  const auto renew = [&](int held) {
    const int tokens = SummarisedTokens(shape.context);
    std::vector<SummaryTask> tasks;
    for (const int32_t row : rows) tasks.push_back({row, row, held, tokens, tokens});
    const SummaryTask* const task = Upload(tasks);
    return time([&](const DecodeAttention& layer, cudaStream_t stream) {
      return LaunchRenewSummaries(
          {.kv_heads = shape.kv_heads,
           .head_dim = shape.head_dim,
           .block_tokens = kBlockTokens,
           .label_width = shape.width,
           .kv = layer.kv,
           .labels = layer.labels,
           .sinks = kSinks,
           .block_tables = layer.block_tables,
           .max_blocks = layer.max_blocks,
           .summaries = summaries + (layer.kv - kv) / kv_bytes * summary_floats,
           .tasks = shape.batch,
           .task = task},
          stream);
    });
  };
  if (shape.tail) {
    timing.summary_seconds = renew(0);
    timing.piece_seconds = renew(SummarisedTokens(shape.context) - kSummaryPiece);
  }
  timing.seconds = time(LaunchDecodeAttention);
  if (shape.sparsity > 1) {
    const DecodeScratch scratch = ScratchOf(call);
    timing.select_seconds = time([&](const DecodeAttention& layer, cudaStream_t stream) {
      return LaunchSelect(layer, scratch.keys, stream);
    });
    timing.attend_seconds = time([&](const DecodeAttention& layer, cudaStream_t stream) {
      return LaunchAttend(layer, scratch.attend, stream);
    });
  }
  return timing;
}

int Main(int argc, char** argv) {
  cudaDeviceProp device;
  CHECK_CUDA(cudaGetDeviceProperties(&device, 0));
  arena.Reserve(kArenaBytes);
  const double bandwidth = CopyBandwidth();
  std::printf("%s, copy %.3f TB/s (read + write)\n", device.name, bandwidth / 1e12);
  std::printf("%5s %7s %6s %4s %2s %9s %9s %8s %8s %6s %8s %8s %7s %8s %8s\n", "batch", "context",
              "heads", "dim", "r", "policy", "MB", "floor us", "us", "share", "select", "attend",
              "speedup", "piece", "summary");
  FILE* json = argc > 1 ? std::fopen(argv[1], "w") : nullptr;
  if (json != nullptr) {
    std::fprintf(json, "{\"device\": \"%s\", \"copy_bytes_per_second\": %.4g, \"results\": [",
                 device.name, bandwidth);
  }
  struct Setting {
    int batch, context, heads, kv_heads, head_dim;
  };
  bool first = true;
  for (const Setting& s : std::vector<Setting>{{8, 16384, 32, 32, 128},
                                               {16, 16384, 32, 32, 128},
                                               {4, 16384, 32, 32, 128},
                                               {16, 4096, 32, 32, 128},
                                               {1, 65536, 32, 32, 128},
                                               {16, 32768, 32, 8, 128},
                                               {8, 8192, 9, 3, 64},
                                               {64, 4096, 9, 3, 64}}) {
    double dense = 0;
    struct Policy {
      int sparsity, width;
      bool tail;
    };
    for (const auto& [sparsity, width, tail] : std::vector<Policy>{{1, 8, false},
                                                                   {16, 8, false},
                                                                   {16, 8, true},
                                                                   {16, 16, false},
                                                                   {16, 16, true},
                                                                   {16, 32, false},
                                                                   {16, 32, true}}) {
      const Timing t =
          Measure({s.batch, s.context, s.heads, s.kv_heads, s.head_dim, width, sparsity, tail});
      if (sparsity == 1) dense = t.seconds;
      const double floor = t.bytes / bandwidth;
      std::printf(
          "%5d %7d %3d/%-2d %4d %2d %9s %9.1f %8.1f %8.1f %5.0f%% %8.1f %8.1f %7.2f %8.1f "
          "%8.1f\n",
          s.batch, s.context, s.heads, s.kv_heads, s.head_dim, sparsity == 1 ? 0 : width,
          sparsity == 1 ? "dense"
          : tail        ? "1/16 tail"
                        : "1/16",
          t.bytes / 1e6, floor * 1e6, t.seconds * 1e6, 100 * floor / t.seconds,
          t.select_seconds * 1e6, t.attend_seconds * 1e6, dense / t.seconds, t.piece_seconds * 1e6,
          t.summary_seconds * 1e6);
      std::fflush(stdout);
      if (json == nullptr) continue;
      std::fprintf(json,
                   "%s\n{\"batch\": %d, \"context\": %d, \"heads\": %d, \"kv_heads\": %d, "
                   "\"head_dim\": %d, \"sparsity\": %d, \"label_width\": %d, \"tail\": %s, "
                   "\"bytes\": %.0f, "
                   "\"seconds\": %.4g, \"select_seconds\": %.4g, \"attend_seconds\": %.4g}",
                   first ? "" : ",", s.batch, s.context, s.heads, s.kv_heads, s.head_dim, sparsity,
                   width, tail ? "true" : "false", t.bytes, t.seconds, t.select_seconds,
                   t.attend_seconds);
      first = false;
    }
  }
  if (json != nullptr) {
    std::fprintf(json, "\n]}\n");
    std::fclose(json);
  }
  return 0;
}

}  // namespace
}  // namespace winnow::cuda

int main(int argc, char** argv) { return winnow::cuda::Main(argc, argv); }

#include "kernels/cuda/cuda_backend.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cuda/block_copies.h"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/decode_kernels.h"
#include "kernels/cuda/decode_rows.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/expert_product.h"
#include "kernels/cuda/head_sizes.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/norms.h"
#include "kernels/cuda/prefill_attention.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/read_bandwidth.h"
#include "kernels/cuda/recordings.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/route.h"
#include "kernels/cuda/status.h"
#include "kernels/cuda/step_arrays.h"
#include "kernels/cuda/thin_product.h"
#include "kernels/cuda/token_choices.h"
#include "kernels/cuda/token_descriptions.h"
#include "kernels/cuda/weights.h"

namespace winnow {
namespace {

using namespace cuda;  // NOLINT: the backend is the front of that namespace

constexpr int kLeastCapability = 8;  // bf16 on tensor cores, cp.async
// Decode steps of more rows gain nothing by a graph: their kernels outlast their launches.
constexpr int kMaxRecordedRows = 256;
// Pairs that an expert has on average, up to which its weights are read at the speed of memory.
constexpr int64_t kThinExpertPairs = 8;
// What is copied between host and device together.
constexpr int64_t kStagingBytes = int64_t{16} << 20;
constexpr int64_t kReadBytes = int64_t{1} << 30;  // to measure bandwidth

class CudaBackend : public Backend {
 public:
  CudaBackend(cudaStream_t stream, std::unique_ptr<Products> products,
              std::unique_ptr<PinnedBuffer> staging)
      : stream_(stream), products_(std::move(products)), staging_(std::move(staging)) {}

  ~CudaBackend() override {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }

  std::string_view name() const override { return "cuda"; }
  DataType activation_type() const override { return DataType::kBF16; }

  absl::Status CheckAttention(int heads, const KvShape& kv, const LayerAttention&) const override {
    if (!IsHeadSize(kv.head_dim)) {
      return absl::UnimplementedError(
          absl::StrCat("the CUDA backend computes heads of 64, 80, 96, 128 or 256 dimensions; the "
                       "model's have ",
                       kv.head_dim));
    }
    const int block_bytes = CurrentDeviceTraits().block_shared_bytes;
    if (PrefillSharedBytes(kv.head_dim) > block_bytes) {
      return absl::UnimplementedError(absl::StrCat(
          "heads of ", kv.head_dim, " dimensions need ", PrefillSharedBytes(kv.head_dim),
          " bytes of shared memory for a block; this device has ", block_bytes));
    }
    if (heads / kv.kv_heads > kMaxGroup || kv.kv_heads > kMaxKvHeads) {
      return absl::UnimplementedError(absl::StrCat(
          "the CUDA backend computes at most ", kMaxGroup, " query heads a KV head and ",
          kMaxKvHeads, " KV heads; the model has ", heads, " and ", kv.kv_heads));
    }
    if (!std::has_single_bit(static_cast<unsigned>(kv.block_tokens)) || kv.block_tokens < 16) {
      return absl::UnimplementedError(absl::StrCat(
          "the CUDA backend wants KV blocks of a power of two of at least 16 tokens, not ",
          kv.block_tokens));
    }
    if (kv.label_width % 8 != 0 || kv.label_width > kMaxDecodeLabelWidth) {
      return absl::UnimplementedError(
          absl::StrCat("the CUDA backend wants labels of a multiple of 8 numbers, at most ",
                       kMaxDecodeLabelWidth, ", not ", kv.label_width));
    }
    return absl::OkStatus();
  }

  absl::Status CheckExperts(int64_t hidden, int64_t ffn) const override {
    if (hidden % kExpertMultiple == 0 && ffn % kExpertMultiple == 0) return absl::OkStatus();
    return absl::UnimplementedError(
        absl::StrCat("the CUDA backend computes experts whose widths are multiples of ",
                     kExpertMultiple, "; the model's are ", hidden, " and ", ffn));
  }

  std::optional<DeviceMemory> OwnMemory() const override { return FreeAndTotalMemory(); }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(int64_t bytes) override {
    absl::StatusOr<std::unique_ptr<DeviceBuffer>> buffer = DeviceBuffer::Create(bytes);
    if (!buffer.ok()) return buffer.status();
    const absl::Status status = CudaStatus(
        cudaMemsetAsync((*buffer)->data(), 0, static_cast<size_t>((*buffer)->bytes()), stream_),
        "cudaMemsetAsync");
    if (!status.ok()) return status;
    return std::unique_ptr<Buffer>(*std::move(buffer));
  }

  absl::StatusOr<std::unique_ptr<Buffer>> AllocateHost(
      int64_t bytes, absl::FunctionRef<void(int64_t)> progress) override {
    absl::StatusOr<std::unique_ptr<MappedBuffer>> buffer = MappedBuffer::Create(bytes, progress);
    if (!buffer.ok()) return buffer.status();
    return std::unique_ptr<Buffer>(*std::move(buffer));
  }

  absl::StatusOr<std::unique_ptr<Matrix>> LoadMatrix(std::span<const HostMatrix> parts) override {
    absl::StatusOr<std::unique_ptr<DeviceMatrix>> matrix =
        DeviceMatrix::Load(parts, pool_, *staging_, stream_);
    if (!matrix.ok()) return matrix.status();
    return std::unique_ptr<Matrix>(*std::move(matrix));
  }

  absl::StatusOr<std::unique_ptr<Matrix>> LoadEmbedding(const HostMatrix& table) override {
    return LoadMatrix({&table, 1});
  }

  absl::Status Reserve(const StepLimits& limits) override {
    absl::Status status = arrays_.Reserve(limits);
    status.Update(decode_rows_.Reserve(limits, stream_));
    status.Update(choices_.Reserve(limits, stream_));
    status.Update(descriptions_.Reserve(stream_));
    return status;
  }

  void BeginStep(const StepBatch& batch) override { Note(arrays_.Upload(batch, stream_)); }

  void Replay(const StepBatch&, std::unique_ptr<Recordings>* recordings,
              absl::FunctionRef<void()> queue) override {
    const StepShape& shape = arrays_.shape();
    if (shape.tiles > 0 || shape.rows > kMaxRecordedRows || !status_.ok()) {
      queue();
      return;
    }
    if (*recordings == nullptr) *recordings = std::make_unique<GraphRecordings>();
    const auto generation = [this] { return arrays_.generation() + decode_rows_.moved(); };
    Note(static_cast<GraphRecordings&>(**recordings).Run(shape, generation, stream_, queue));
  }

  void Embed(const StepBatch&, const Matrix& table, float scale, Tensor out) override {
    Note(LaunchEmbed(Weights(table), arrays_.tokens, scale, out, stream_), "Embed");
  }

  void RmsNorm(Tensor x, const float* weight, float epsilon, Tensor out) override {
    Note(LaunchRmsNorm(x, weight, epsilon, out, stream_), "RmsNorm");
  }

  void AddNormalized(Tensor x, const float* weight, float epsilon, Tensor sum) override {
    Note(LaunchAddNormalized(x, weight, epsilon, sum, stream_), "AddNormalized");
  }

  void MatMul(Tensor x, const Matrix& w, const float* bias, bool accumulate, Tensor out) override {
    assert(x.columns == w.columns() && out.columns == w.rows() && out.rows == x.rows);
    if (IsThinProduct(x, out)) {
      Note(LaunchThinProduct(x, Weights(w), accumulate, out, stream_), "ThinProduct");
    } else {
      Note(products_->Queue(x, Weights(w), accumulate, out, stream_));
    }
    if (bias != nullptr) Note(LaunchAddBias(bias, out, stream_), "AddBias");
  }

  void NormalizeHeads(Tensor qkv, int heads, const KvShape& kv, const float* query_weight,
                      const float* key_weight, float epsilon) override {
    Note(LaunchNormalizeHeads({.qkv = qkv,
                               .heads = heads,
                               .kv_heads = kv.kv_heads,
                               .head_dim = kv.head_dim,
                               .query_weight = query_weight,
                               .key_weight = key_weight,
                               .epsilon = epsilon},
                              stream_),
         "NormalizeHeads");
  }

  void ApplyRope(const StepBatch&, Tensor qkv, int heads, const KvShape& kv,
                 const Rope& rope) override {
    RopeAndStore call = StoreCall(qkv, heads, {kv}, rope, {});
    call.rotates = true;
    Note(LaunchRopeAndStore(call, stream_), "ApplyRope");
  }

  void StoreKv(const StepBatch&, Tensor qkv, int heads, const KvView& kv,
               const LabelCodec& basis) override {
    RopeAndStore call = StoreCall(qkv, heads, kv, {}, basis);
    call.stores = true;
    Note(LaunchRopeAndStore(call, stream_), "StoreKv");
  }

  void RopeAndStoreKv(const StepBatch&, Tensor qkv, int heads, const KvView& kv, const Rope& rope,
                      const LabelCodec& basis) override {
    RopeAndStore call = StoreCall(qkv, heads, kv, rope, basis);
    call.rotates = true;
    call.stores = true;
    Note(LaunchRopeAndStore(call, stream_), "RopeAndStoreKv");
  }

  void Attention(const StepBatch&, Tensor qkv, int heads, const KvView& kv,
                 const LayerAttention& attention, Tensor out) override {
    const StepShape& shape = arrays_.shape();
    Note(decode_rows_.RenewSummaries(arrays_, kv, attention, stream_));
    if (shape.tiles > 0) {
      Note(LaunchPrefillAttention({.heads = heads,
                                   .kv_heads = kv.kv_heads,
                                   .head_dim = kv.head_dim,
                                   .block_tokens = kv.block_tokens,
                                   .scale = ScoreScale(attention, kv.head_dim),
                                   .soft_cap = attention.soft_cap,
                                   .sliding_window = attention.sliding_window,
                                   .kv = kv.data,
                                   .block_tables = arrays_.BlockTables(kv.group),
                                   .max_blocks = shape.max_blocks,
                                   .tiles = shape.tiles,
                                   .tile = arrays_.tiles,
                                   .qkv = qkv,
                                   .out = out},
                                  stream_),
           "PrefillAttention");
    }
    if (shape.decode_rows > 0) {
      Note(decode_rows_.Attend(arrays_, qkv, heads, kv, attention, out, stream_));
    }
  }

  void MeasureRecall(const StepBatch&, Tensor, int, const KvView&, const LayerAttention&,
                     std::span<const RecallProbe> probes, ProbedMass* probed) override {
    Note(decode_rows_.MeasureRecall(arrays_, probes, *staging_, probed, stream_));
  }

  void Gate(Activation activation, Tensor gate_up, Tensor out) override {
    Note(LaunchGate(activation, gate_up, out, stream_), "Gate");
  }

  void Route(Tensor logits, bool normalizes, const ExpertRoutes& routes) override {
    Note(LaunchRoute(logits, normalizes, routes, stream_), "Route");
  }

  void ExpertMatMul(Tensor x, const Matrix& w, const ExpertRoutes& routes, Tensor out) override {
    assert(x.columns == w.columns() && out.columns == w.rows() / routes.experts);
    const ExpertProduct call{.x = x.data,
                             .x_stride = x.stride,
                             .x_pairs = static_cast<int>(out.rows / x.rows),
                             .w = Weights(w),
                             .columns = static_cast<int>(x.columns),
                             .outputs = static_cast<int>(out.columns),
                             .out = out.data,
                             .out_stride = out.stride,
                             .out_type = out.type,
                             .routes = routes};
    if (out.rows <= kThinExpertPairs * routes.experts) {
      Note(LaunchThinExperts(call, stream_), "ThinExperts");
    } else {
      Note(LaunchWideExperts(call, stream_), "WideExperts");
    }
  }

  void AddExperts(Tensor x, const ExpertRoutes& routes, Tensor sum) override {
    Note(LaunchAddExperts(x, routes, sum, stream_), "AddExperts");
  }

  void GatherLogitRows(const StepBatch&, int first, Tensor x, Tensor out) override {
    Note(LaunchGatherRows(x, arrays_.logit_rows + first, out, stream_), "GatherLogitRows");
  }

  void SoftCap(Tensor logits, float cap) override {
    Note(LaunchSoftCap(cap, logits, stream_), "SoftCap");
  }

  void ChooseTokens(Tensor logits, int first, std::span<const TokenChoice> choices,
                    int32_t* tokens) override {
    Note(choices_.Choose(logits, first, choices, *staging_, tokens, stream_));
  }

  void DescribeTokens(Tensor logits, int first, std::span<const TokenChoice> choices,
                      const int32_t* tokens, TokenDescription* descriptions) override {
    Note(descriptions_.Describe(logits, first, choices, tokens, *staging_, descriptions, stream_));
  }

  void CopyToHost(const Tensor& x, float* host) override {
    const int64_t row_bytes = x.columns * static_cast<int64_t>(sizeof(float));
    const int64_t step = std::max<int64_t>(1, kStagingBytes / row_bytes);
    for (int64_t row = 0; row < x.rows && status_.ok(); row += step) {
      const int64_t count = std::min(step, x.rows - row);
      const bool fits = row_bytes <= kStagingBytes;
      void* to = fits ? static_cast<void*>(staging_->data()) : host + row * x.columns;
      Note(cudaMemcpy2DAsync(to, static_cast<size_t>(row_bytes), x.Row(row),
                             static_cast<size_t>(x.stride) * sizeof(float),
                             static_cast<size_t>(row_bytes), static_cast<size_t>(count),
                             cudaMemcpyDeviceToHost, stream_),
           "cudaMemcpy2DAsync");
      Note(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
      if (fits) std::memcpy(host + row * x.columns, to, static_cast<size_t>(count * row_bytes));
    }
  }

  void Copy(std::byte* destination, const std::byte* source, int64_t bytes) override {
    Note(cudaMemcpyAsync(destination, source, static_cast<size_t>(bytes), cudaMemcpyDefault,
                         stream_),
         "cudaMemcpyAsync");
  }

  void CopyToSlots(const BlockCopies& copies) override {
    Note(LaunchBlockCopies(copies, /*to_slots=*/true, stream_), "CopyToSlots");
  }

  void CopyFromSlots(const BlockCopies& copies) override {
    Note(LaunchBlockCopies(copies, /*to_slots=*/false, stream_), "CopyFromSlots");
  }

  double MeasureReadBandwidth() override {
    constexpr int kRounds = 10;
    const absl::StatusOr<std::unique_ptr<Buffer>> memory = Allocate(kReadBytes);
    const absl::StatusOr<std::unique_ptr<Buffer>> sink = Allocate(sizeof(float));
    if (!memory.ok() || !sink.ok()) return 0;
    cudaEvent_t begin, end;
    Note(cudaEventCreate(&begin), "cudaEventCreate");
    Note(cudaEventCreate(&end), "cudaEventCreate");
    float best = 0;
    for (int round = 0; round < kRounds && status_.ok(); ++round) {
      Note(cudaEventRecord(begin, stream_), "cudaEventRecord");
      Note(LaunchRead((*memory)->data(), kReadBytes, reinterpret_cast<float*>((*sink)->data()),
                      stream_),
           "Read");
      Note(cudaEventRecord(end, stream_), "cudaEventRecord");
      Note(cudaEventSynchronize(end), "cudaEventSynchronize");
      float milliseconds = 0;
      Note(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
      if (round == 0 || milliseconds < best) best = milliseconds;
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return best > 0 ? static_cast<double>(kReadBytes) / best * 1e3 : 0;
  }

  absl::Status Synchronize() override {
    Note(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    return std::exchange(status_, absl::OkStatus());
  }

 private:
  static const std::byte* Weights(const Matrix& matrix) {
    return static_cast<const DeviceMatrix&>(matrix).data();
  }

  // Keeps the first error for Synchronize.
  void Note(absl::Status status) { status_.Update(std::move(status)); }
  void Note(cudaError_t error, std::string_view call) { Note(CudaStatus(error, call)); }

  RopeAndStore StoreCall(const Tensor& qkv, int heads, const KvView& kv, const Rope& rope,
                         const LabelCodec& basis) const {
    return {.qkv = qkv,
            .heads = heads,
            .kv_heads = kv.kv_heads,
            .head_dim = kv.head_dim,
            .block_tokens = kv.block_tokens,
            .rope = rope,
            .positions = arrays_.positions,
            .sequences = arrays_.sequences,
            .block_tables = arrays_.BlockTables(kv.group),
            .max_blocks = arrays_.shape().max_blocks,
            .kv = kv.data,
            .labels = kv.labels,
            .label_width = kv.label_width,
            .basis = basis};
  }

  cpu::ThreadPool pool_{0};  ///< dequantises weights
  const cudaStream_t stream_;
  std::unique_ptr<Products> products_;
  std::unique_ptr<PinnedBuffer> staging_;
  StepArrays arrays_;
  DecodeRows decode_rows_;
  TokenChoices choices_;
  TokenDescriptions descriptions_;
  absl::Status status_;  ///< first error since Synchronize
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error == cudaErrorInsufficientDriver || error == cudaErrorNoDevice || devices == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("there is no CUDA device: ", cudaGetErrorString(error)));
  }
  if (absl::Status status = CudaStatus(error, "cudaGetDeviceCount"); !status.ok()) return status;
  cudaDeviceProp properties;
  absl::Status status =
      CudaStatus(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  if (!status.ok()) return status;
  if (properties.major < kLeastCapability) {
    return absl::FailedPreconditionError(
        absl::StrCat(properties.name, " has compute capability ", properties.major, ".",
                     properties.minor, "; at least ", kLeastCapability, ".0 is needed"));
  }
  absl::StatusOr<std::unique_ptr<Products>> products = Products::Create();
  if (!products.ok()) return products.status();
  absl::StatusOr<std::unique_ptr<PinnedBuffer>> staging = PinnedBuffer::Create(kStagingBytes);
  if (!staging.ok()) return staging.status();
  cudaStream_t stream = nullptr;
  status = CudaStatus(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
                      "cudaStreamCreateWithFlags");
  if (!status.ok()) return status;
  return std::make_unique<CudaBackend>(stream, *std::move(products), *std::move(staging));
}

}  // namespace winnow

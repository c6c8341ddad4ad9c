#include "kernels/cpu/cpu_backend.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/experts.h"
#include "kernels/cpu/for_rows.h"
#include "kernels/cpu/host_buffer.h"
#include "kernels/cpu/label_scores.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/paged_attention.h"
#include "kernels/cpu/products.h"
#include "kernels/cpu/read_bandwidth.h"
#include "kernels/cpu/step_rotations.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cpu/token_chooser.h"
#include "kernels/logits.h"

namespace winnow {
namespace {

using namespace cpu;  // NOLINT: the backend is the front of that namespace

// A table that stays where the model file put it.
class HostTable : public Matrix {
 public:
  explicit HostTable(const HostMatrix& table) : table_(table) {}
  int64_t rows() const override { return table_.rows; }
  int64_t columns() const override { return table_.columns; }
  int64_t bytes() const override { return static_cast<int64_t>(table_.data.size()); }
  void Row(int64_t row, float* out) const {
    const int64_t row_bytes = RowBytes(table_.type, table_.columns);
    Dequantize(table_.type, table_.data.data() + row * row_bytes, table_.columns, out);
  }

 private:
  HostMatrix table_;
};

class CpuBackend : public Backend {
 public:
  explicit CpuBackend(const CpuOptions& options)
      : widen_(options.f32_matmul),
        pool_(options.threads),
        products_(pool_),
        attention_(pool_),
        choosers_(static_cast<size_t>(pool_.threads())) {}

  std::string_view name() const override { return "cpu"; }
  DataType activation_type() const override { return DataType::kF32; }

  absl::Status CheckAttention(int, const KvShape&, const LayerAttention&) const override {
    return absl::OkStatus();
  }

  absl::Status CheckExperts(int64_t, int64_t) const override { return absl::OkStatus(); }

  std::optional<DeviceMemory> OwnMemory() const override { return std::nullopt; }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(int64_t bytes) override {
    absl::StatusOr<std::unique_ptr<HostBuffer>> buffer = HostBuffer::Create(bytes);
    if (!buffer.ok()) return buffer.status();
    return std::unique_ptr<Buffer>(*std::move(buffer));
  }

  absl::StatusOr<std::unique_ptr<Buffer>> AllocateHost(int64_t bytes,
                                                       absl::FunctionRef<void(int64_t)>) override {
    return Allocate(bytes);
  }

  absl::StatusOr<std::unique_ptr<Matrix>> LoadMatrix(std::span<const HostMatrix> parts) override {
    absl::StatusOr<std::unique_ptr<PackedMatrix>> matrix = PackedMatrix::Pack(parts, widen_);
    if (!matrix.ok()) return matrix.status();
    most_segments_ = std::max<int64_t>(most_segments_, std::ssize((*matrix)->segments()));
    return std::unique_ptr<Matrix>(*std::move(matrix));
  }

  absl::StatusOr<std::unique_ptr<Matrix>> LoadEmbedding(const HostMatrix& table) override {
    return std::make_unique<HostTable>(table);
  }

  absl::Status Reserve(const StepLimits& limits) override {
    try {
      row_sequence_.reserve(static_cast<size_t>(limits.rows));
      products_.Reserve(limits, most_segments_);
      rotations_.Reserve(limits.ropes, limits.rows);
      attention_.Reserve(limits);
      for (TokenChooser& chooser : choosers_) chooser.Reserve(static_cast<size_t>(limits.vocab));
    } catch (const std::bad_alloc&) {
      return absl::ResourceExhaustedError("the system has no more");
    }
    return absl::OkStatus();
  }

  void BeginStep(const StepBatch& batch) override {
    row_sequence_.resize(batch.rows());
    for (int s = 0; s < batch.sequences(); ++s) {
      std::fill(row_sequence_.begin() + batch.query_begin[s],
                row_sequence_.begin() + batch.query_begin[s + 1], s);
    }
    rotations_.Clear();
  }

  void Replay(const StepBatch&, std::unique_ptr<Recordings>*,
              absl::FunctionRef<void()> queue) override {
    queue();
  }

  void Embed(const StepBatch& batch, const Matrix& table, float scale, Tensor out) override {
    const auto& host_table = static_cast<const HostTable&>(table);
    for (int t = 0; t < batch.rows(); ++t) {
      float* row = out.Row(t);
      host_table.Row(batch.tokens[t], row);
      if (scale != 1) std::for_each_n(row, out.columns, [&](float& x) { x *= scale; });
    }
  }

  void RmsNorm(Tensor x, const float* weight, float epsilon, Tensor out) override {
    ForRows(x.rows, x.columns,
            [&](int64_t t) { RmsNormRow(x.Row(t), weight, epsilon, x.columns, out.Row(t)); });
  }

  void AddNormalized(Tensor x, const float* weight, float epsilon, Tensor sum) override {
    ForRows(x.rows, x.columns,
            [&](int64_t t) { AddNormalizedRow(x.Row(t), weight, epsilon, x.columns, sum.Row(t)); });
  }

  void MatMul(Tensor x, const Matrix& w, const float* bias, bool accumulate, Tensor out) override {
    products_.Multiply(x, static_cast<const PackedMatrix&>(w), bias, accumulate, out);
  }

  void NormalizeHeads(Tensor qkv, int heads, const KvShape& kv, const float* query_weight,
                      const float* key_weight, float epsilon) override {
    ForRows(qkv.rows, qkv.columns, [&](int64_t t) {
      for (int h = 0; h < heads + kv.kv_heads; ++h) {
        float* head = qkv.Row(t) + h * kv.head_dim;
        RmsNormRow(head, h < heads ? query_weight : key_weight, epsilon, kv.head_dim, head);
      }
    });
  }

  void ApplyRope(const StepBatch& batch, Tensor qkv, int heads, const KvShape& kv,
                 const Rope& rope) override {
    const float* rotations = RotationsOf(batch, rope);
    ForRows(batch.rows(), qkv.columns,
            [&](int64_t t) { RotateRow(t, qkv, heads, kv, rope, rotations); });
  }

  void StoreKv(const StepBatch& batch, Tensor qkv, int heads, const KvView& kv,
               const LabelCodec& basis) override {
    ForRows(batch.rows(), qkv.columns,
            [&](int64_t t) { StoreRow(batch, t, qkv, heads, kv, basis); });
  }

  void RopeAndStoreKv(const StepBatch& batch, Tensor qkv, int heads, const KvView& kv,
                      const Rope& rope, const LabelCodec& basis) override {
    const float* rotations = RotationsOf(batch, rope);
    ForRows(batch.rows(), qkv.columns, [&](int64_t t) {
      RotateRow(t, qkv, heads, kv, rope, rotations);
      StoreRow(batch, t, qkv, heads, kv, basis);
    });
  }

  void Attention(const StepBatch& batch, Tensor qkv, int heads, const KvView& kv,
                 const LayerAttention& attention, Tensor out) override {
    attention_.Run({batch, qkv, heads, kv, attention, out});
  }

  void MeasureRecall(const StepBatch& batch, Tensor qkv, int heads, const KvView& kv,
                     const LayerAttention& attention, std::span<const RecallProbe> probes,
                     ProbedMass* probed) override {
    attention_.MeasureRecall({batch, qkv, heads, kv, attention, Tensor{}}, probes, probed);
  }

  void Gate(Activation activation, Tensor gate_up, Tensor out) override {
    ForRows(out.rows, out.columns * 8, [&](int64_t t) {  // an exponential weighs several additions
      const float* row = gate_up.Row(t);
      GateRow(activation, row, row + out.columns, out.columns, out.Row(t));
    });
  }

  void Route(Tensor logits, bool normalizes, const ExpertRoutes& routes) override {
    const int64_t chosen = routes.chosen;
    ForRows(logits.rows, logits.columns * chosen, [&](int64_t t) {
      ChooseExperts({logits.Row(t), static_cast<size_t>(logits.columns)}, normalizes,
                    {routes.ids + t * chosen, static_cast<size_t>(chosen)},
                    routes.weights + t * chosen);
    });
    GroupPairs(routes);
  }

  void ExpertMatMul(Tensor x, const Matrix& w, const ExpertRoutes& routes, Tensor out) override {
    products_.MultiplyExperts(x, static_cast<const PackedMatrix&>(w), routes, out);
  }

  void AddExperts(Tensor x, const ExpertRoutes& routes, Tensor sum) override {
    ForRows(sum.rows, x.columns * routes.chosen, [&](int64_t t) {
      for (int64_t pair = t * routes.chosen; pair < (t + 1) * routes.chosen; ++pair) {
        AddScaled(x.Row(pair), routes.weights[pair], x.columns, sum.Row(t));
      }
    });
  }

  void GatherLogitRows(const StepBatch& batch, int first, Tensor x, Tensor out) override {
    for (int64_t i = 0; i < out.rows; ++i) {
      std::memcpy(out.Row(i), x.Row(batch.logit_rows[first + i]), x.columns * sizeof(float));
    }
  }

  void SoftCap(Tensor logits, float cap) override {
    ForRows(logits.rows, logits.columns * 8,
            [&](int64_t t) { SoftCapRow(cap, logits.columns, logits.Row(t)); });
  }

  void ChooseTokens(Tensor logits, int first, std::span<const TokenChoice> choices,
                    int32_t* tokens) override {
    pool_.ParallelFor(std::ssize(choices), [&](int64_t i, int worker) {
      const TokenChoice& choice = choices[i];
      tokens[i] = choosers_[worker].Choose(
          {logits.Row(choice.row - first), static_cast<size_t>(logits.columns)}, choice);
    });
  }

  void DescribeTokens(Tensor logits, int first, std::span<const TokenChoice> choices,
                      const int32_t* tokens, TokenDescription* descriptions) override {
    pool_.ParallelFor(std::ssize(choices), [&](int64_t i, int) {
      const TokenChoice& choice = choices[i];
      if (choice.alternatives < 0 || tokens[i] < 0) return;
      descriptions[i] =
          DescribeToken({logits.Row(choice.row - first), static_cast<size_t>(logits.columns)},
                        tokens[i], choice.alternatives);
    });
  }

  void CopyToHost(const Tensor& x, float* host) override {
    for (int64_t t = 0; t < x.rows; ++t) {
      std::memcpy(host + t * x.columns, x.Row(t), x.columns * sizeof(float));
    }
  }

  void Copy(std::byte* destination, const std::byte* source, int64_t bytes) override {
    std::memcpy(destination, source, bytes);
  }

  void CopyToSlots(const BlockCopies& copies) override {
    ForBlockParts(copies, [](std::byte* block, std::byte* slot, size_t bytes) {
      std::memcpy(slot, block, bytes);
    });
  }

  void CopyFromSlots(const BlockCopies& copies) override {
    ForBlockParts(copies, [](std::byte* block, const std::byte* slot, size_t bytes) {
      std::memcpy(block, slot, bytes);
    });
  }

  double MeasureReadBandwidth() override { return cpu::MeasureReadBandwidth(pool_); }

  absl::Status Synchronize() override { return absl::OkStatus(); }

 private:
  template <typename Body>
  void ForRows(int64_t rows, int64_t elements_per_row, const Body& body) {
    cpu::ForRows(pool_, rows, elements_per_row, body);
  }

  // Calls copy(in the block, in the slot, bytes) for the parts of every block.
  template <typename Copy>
  void ForBlockParts(const BlockCopies& copies, const Copy& copy) {
    const int64_t slot_bytes = copies.slot_bytes();
    pool_.ParallelFor(std::ssize(copies.copies), [&](int64_t i, int) {
      const auto [block, slot] = copies.copies[i];
      std::byte* to = copies.slots + slot * slot_bytes;
      for (const BlockPart& part : copies.parts) {
        copy(part.data + block * part.bytes, to, static_cast<size_t>(part.bytes));
        to += part.bytes;
      }
    });
  }

  // The rotations of the step's rows by this table.
  const float* RotationsOf(const StepBatch& batch, const Rope& rope) {
    if (const float* known = rotations_.Find(rope)) return known;
    float* rotations = rotations_.Add(rope, batch.rows());
    ForRows(batch.rows(), int64_t{rope.dim / 2} * 64,
            [&](int64_t t) { ComputeRotation(rope, batch.positions[t], t, rotations); });
    return rotations;
  }

  static void RotateRow(int64_t t, const Tensor& qkv, int heads, const KvShape& kv,
                        const Rope& rope, const float* rotations) {
    const auto rotate = rope.pairing == RopePairing::kAdjacent ? RopeAdjacent : RopeHalves;
    const float* cosines = rotations + t * rope.dim;
    for (int h = 0; h < heads + kv.kv_heads; ++h) {
      rotate(cosines, cosines + rope.dim / 2, rope.dim, qkv.Row(t) + h * kv.head_dim);
    }
  }

  void StoreRow(const StepBatch& batch, int64_t t, const Tensor& qkv, int heads, const KvView& kv,
                const LabelCodec& basis) const {
    const int position = batch.positions[t];
    const int32_t* table = batch.BlockTable(kv.group, row_sequence_[t]);
    const int32_t id = table[position / kv.block_tokens];
    const int slot = position % kv.block_tokens;
    const float* keys = qkv.Row(t) + heads * kv.head_dim;
    const float* values = keys + kv.kv_heads * kv.head_dim;
    for (int g = 0; g < kv.kv_heads; ++g) {
      uint16_t* stored = kv.key(id, g, slot);
      ToHalf(keys + g * kv.head_dim, kv.head_dim, stored);
      ToHalf(values + g * kv.head_dim, kv.head_dim, stored + kv.head_dim);
    }
    if (kv.labels == nullptr) return;
    for (int g = 0; g < kv.kv_heads; ++g) {
      WriteLabel(keys + g * kv.head_dim, basis.key + int64_t{g} * kv.head_dim * kv.label_width,
                 basis.offset + int64_t{g} * kv.label_width, kv.head_dim, kv.label_width,
                 kv.head_labels(id, g) + LabelOffset(slot, kv.label_width));
    }
  }

  const bool widen_;
  ThreadPool pool_;
  int64_t most_segments_ = 1;  ///< of a matrix
  Products products_;
  StepRotations rotations_;
  std::vector<int32_t> row_sequence_;
  PagedAttention attention_;
  std::vector<TokenChooser> choosers_;  ///< [workers]
};

}  // namespace

std::unique_ptr<Backend> CreateCpuBackend(const CpuOptions& options) {
  return std::make_unique<CpuBackend>(options);
}

int64_t CpuMatrixBytes(DataType type, int64_t rows, int64_t columns) {
  return PackedBytes(type, rows, columns);
}

}  // namespace winnow

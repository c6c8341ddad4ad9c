#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/activation.h"
#include "kernels/block_copies.h"
#include "kernels/data_type.h"
#include "kernels/expert_routes.h"
#include "kernels/kv_view.h"
#include "kernels/rope.h"
#include "kernels/selection.h"
#include "kernels/step_batch.h"
#include "kernels/tensor.h"
#include "kernels/token_choice.h"

namespace winnow {

/// A matrix as it lies in a model file: [rows, columns], columns contiguous.
struct HostMatrix {
  DataType type = DataType::kF32;
  int64_t rows = 0;
  int64_t columns = 0;
  std::span<const std::byte> data;
};

/// Memory of a backend's device. Freed on destruction.
class Buffer {
 public:
  virtual ~Buffer() = default;
  virtual std::byte* data() = 0;
  virtual int64_t bytes() const = 0;
};

/// A weight matrix [rows, columns] in the layout that a backend computes on; opaque to others.
class Matrix {
 public:
  virtual ~Matrix() = default;
  virtual int64_t rows() const = 0;
  virtual int64_t columns() const = 0;
  /// Bytes that one product with the matrix reads.
  virtual int64_t bytes() const = 0;
};

/// What no step exceeds, and the largest sizes of the operators that compute it.
struct StepLimits {
  int rows = 0;
  int sequences = 0;
  int context = 0;     ///< tokens of a sequence
  int logit_rows = 0;  ///< that ChooseTokens is given together
  int heads = 0;       ///< query heads of attention
  std::span<const KvShape> layers;
  std::span<const Rope> ropes;  ///< with all tables of frequencies
  int64_t columns = 0;          ///< of what a product multiplies
  int experts = 0;              ///< of a layer; 0: there are none
  int chosen_experts = 0;       ///< of a row
  int vocab = 0;
};

/// Bytes of a device's memory.
struct DeviceMemory {
  int64_t total = 0;
  int64_t free = 0;  ///< of it, that nobody uses
};

/// Operators as a backend has recorded them (Backend::Replay); opaque to others.
class Recordings {
 public:
  virtual ~Recordings() = default;
};

/// Compute on one device. An operator has the same name, meaning and test on every backend.
/// Operators queue work in order; results are there after Synchronize. A backend is used by one
/// thread at a time. Sizes are checked when the model is loaded, so operators assert only.
///
/// Tensors are fp32. Those that a product multiplies, and what is only computed to be multiplied
/// later, are of activation_type(): the backend's choice between speed and precision.
///
/// On the CPU a row's result never depends on the other rows of the call (row invariance).
class Backend {
 public:
  virtual ~Backend() = default;

  /// "cpu" or "cuda".
  virtual std::string_view name() const = 0;

  /// Type of the activations that products multiply: kF32 or kBF16.
  virtual DataType activation_type() const = 0;

  /// UNIMPLEMENTED when attention of a layer of these sizes and settings can't be computed. What of
  /// `attention` lies in memory is not read.
  virtual absl::Status CheckAttention(int heads, const KvShape& kv,
                                      const LayerAttention& attention) const = 0;

  /// UNIMPLEMENTED when layers of experts with weights [2 ffn, hidden] and [hidden, ffn] can't be
  /// computed.
  virtual absl::Status CheckExperts(int64_t hidden, int64_t ffn) const = 0;

  /// The device's own memory, now; nothing where it computes in the host's, which is there for
  /// others, too.
  virtual std::optional<DeviceMemory> OwnMemory() const = 0;

  /// Zeroed device memory. RESOURCE_EXHAUSTED names what was needed.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> Allocate(int64_t bytes) = 0;

  /// Zeroed host memory that the device reaches, too. Where much of it takes long to be made so,
  /// `progress` is called with the bytes that are, now and then. RESOURCE_EXHAUSTED names what was
  /// needed.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> AllocateHost(
      int64_t bytes, absl::FunctionRef<void(int64_t done)> progress) = 0;

  /// Prepares a weight: `parts` stacked along their rows (such as Q, K and V projections), which
  /// may differ in type. INVALID_ARGUMENT when their columns differ or a type is not supported.
  virtual absl::StatusOr<std::unique_ptr<Matrix>> LoadMatrix(std::span<const HostMatrix> parts) = 0;

  /// Prepares an embedding table [vocab, hidden] to look rows up in. The CPU backend keeps pointing
  /// at table.data, which must stay alive.
  virtual absl::StatusOr<std::unique_ptr<Matrix>> LoadEmbedding(const HostMatrix& table) = 0;

  /// Takes what memory operators need beside what they are given, once all weights are loaded: for
  /// steps within the limits none takes any more. RESOURCE_EXHAUSTED when memory is short.
  virtual absl::Status Reserve(const StepLimits& limits) = 0;

  /// Takes the arrays of a step to the device. Every operator that is given a batch gets the one of
  /// the last call, which stays as it is until the next one.
  virtual void BeginStep(const StepBatch& batch) = 0;

  /// Queues what `queue` queues for the batch. A backend may record that, and replay the recording
  /// for another batch of the same shape without calling `queue`, which therefore queues the same
  /// operators on the same memory whatever the batch holds, and none that touches host memory.
  /// `recordings` is null at first; one belongs to one `queue`.
  virtual void Replay(const StepBatch& batch, std::unique_ptr<Recordings>* recordings,
                      absl::FunctionRef<void()> queue) = 0;

  /// out[t, :] = scale table[batch.tokens[t], :].
  virtual void Embed(const StepBatch& batch, const Matrix& table, float scale, Tensor out) = 0;

  /// out[t, c] = x[t, c] / sqrt(mean_c(x[t, c]^2) + epsilon) * weight[c]. `out` is of
  /// activation_type().
  virtual void RmsNorm(Tensor x, const float* weight, float epsilon, Tensor out) = 0;

  /// sum[t, c] += x[t, c] / sqrt(mean_c(x[t, c]^2) + epsilon) * weight[c]; x and sum are fp32.
  virtual void AddNormalized(Tensor x, const float* weight, float epsilon, Tensor sum) = 0;

  /// out[t, n] = sum_k x[t, k] w[n, k] + bias[n]; `bias` may be null. With `accumulate` the product
  /// is added to what `out` holds (the residual stream). `x` is of activation_type(), `out` of that
  /// or fp32; fp32 with `accumulate`.
  virtual void MatMul(Tensor x, const Matrix& w, const float* bias, bool accumulate,
                      Tensor out) = 0;

  /// Norms each head of the queries and keys of `qkv` ([rows, (heads + 2 kv_heads) head_dim]: Q,
  /// then K, then V), in place and in fp32:
  ///   x[c] = x[c] / sqrt(mean_c(x[c]^2) + epsilon) * weight[c],
  /// queries with `query_weight` and keys with `key_weight`, [head_dim] both.
  virtual void NormalizeHeads(Tensor qkv, int heads, const KvShape& kv, const float* query_weight,
                              const float* key_weight, float epsilon) = 0;

  /// Rotates the queries and keys of `qkv` (as above) to their positions, in place.
  virtual void ApplyRope(const StepBatch& batch, Tensor qkv, int heads, const KvShape& kv,
                         const Rope& rope) = 0;

  /// Writes the keys and values of `qkv` (as above), and the keys' labels if the layer keeps them,
  /// to the blocks of the batch. `basis` is only used for labels.
  virtual void StoreKv(const StepBatch& batch, Tensor qkv, int heads, const KvView& kv,
                       const LabelCodec& basis) = 0;

  /// ApplyRope and StoreKv in one pass, where nothing stands between them: the same numbers.
  virtual void RopeAndStoreKv(const StepBatch& batch, Tensor qkv, int heads, const KvView& kv,
                              const Rope& rope, const LabelCodec& basis) = 0;

  /// Causal attention of every row's queries (in `qkv`, as above) over selected keys and values of
  /// its sequence, up to its own position:
  ///   out[t, h, :] = sum_j softmax_j(cap(scale q[t, h] . k[j, g])) v[j, g],
  /// g = h kv_heads / heads, j in S[t, g], with the scale (ScoreScale) and soft cap of `attention`.
  /// S is all that the row sees (SeenTokens, the most recent ones) where it is dense (BudgetTokens
  /// of as many). Else it holds BudgetTokens positions: sinks, window, and of the others those with
  /// the largest
  ///   mean over h in g of softmax_j(score[t, h, j]),
  /// lower positions first among equals. Where what is not chosen counts (tail = TailWeight
  /// above 0), the others U are one more term of the softmax for each query head, of value v' and
  /// weight E:
  ///   e[j] = tail exp(score[t, h, j] - mean score[t, h, :] + scale q[t, h] . mean k[:, g])
  ///   E = sum_U e[j],  v' = mean v + slopes^T (mean_S code - mean code)
  /// with the mean by weights e over those of U that IsSampled (if there are any), and means and
  /// slopes of what the sequence's summary holds for the row (kernels/summary.h); not where it has
  /// no slot. Scores are approximate ones from labels
  /// (LabelCodec; the query's side is rounded to 8 bits) or exact ones, as batch.selections says.
  /// `out` is of activation_type().
  virtual void Attention(const StepBatch& batch, Tensor qkv, int heads, const KvView& kv,
                         const LayerAttention& attention, Tensor out) = 0;

  /// For each probe: what S[row, kv_head] of Attention with the same arguments holds, and U. Reads
  /// every key. `probed` [probes] in host memory, there after Synchronize. REQUIRES: Attention with
  /// these arguments was called last.
  virtual void MeasureRecall(const StepBatch& batch, Tensor qkv, int heads, const KvView& kv,
                             const LayerAttention& attention, std::span<const RecallProbe> probes,
                             ProbedMass* probed) = 0;

  /// out[t, c] = activation(gate_up[t, c]) * gate_up[t, ffn + c], out [rows, ffn]; both of
  /// activation_type().
  virtual void Gate(Activation activation, Tensor gate_up, Tensor out) = 0;

  /// Chooses each row's experts by `logits` [rows, experts]: those of the largest, lower ones first
  /// among equals, with weights
  ///   routes.weights[t, i] = exp(logits[t, e]) / sum_j exp(logits[t, j]), e = routes.ids[t, i],
  /// j in all experts, or in the chosen ones if `normalizes`. Groups the pairs by experts.
  /// REQUIRES: at most kMaxExperts, of which at most kMaxChosenExperts are chosen.
  virtual void Route(Tensor logits, bool normalizes, const ExpertRoutes& routes) = 0;

  /// out[p, :] = x[t, :] w_e^T for each pair p of row t with the expert e. `w` has the experts'
  /// matrices w_e below one another. `x` has a row for each row or for each pair, of
  /// activation_type(); `out` has one for each pair, of that or fp32.
  virtual void ExpertMatMul(Tensor x, const Matrix& w, const ExpertRoutes& routes, Tensor out) = 0;

  /// sum[t, :] += sum_i routes.weights[t, i] x[t chosen + i, :], in the order of i; fp32. `x` has a
  /// row for each pair.
  virtual void AddExperts(Tensor x, const ExpertRoutes& routes, Tensor sum) = 0;

  /// out[i, :] = x[batch.logit_rows[first + i], :].
  virtual void GatherLogitRows(const StepBatch& batch, int first, Tensor x, Tensor out) = 0;

  /// logits[i] = cap tanh(logits[i] / cap), in place; fp32, cap above 0.
  virtual void SoftCap(Tensor logits, float cap) = 0;

  /// tokens[i] = the token that choices[i] makes of logits[choices[i].row - first, :], or why there
  /// is none (kLogitsNotFinite, kNoTokenLeft). `tokens` [choices] in host memory, there at once.
  virtual void ChooseTokens(Tensor logits, int first, std::span<const TokenChoice> choices,
                            int32_t* tokens) = 0;

  /// descriptions[i] = what logits[choices[i].row - first, :] says of tokens[i], which is what
  /// choices[i] came to, for those choices that want it and came to a token; others stay as they
  /// are. `tokens` and `descriptions` [choices] in host memory, there at once.
  virtual void DescribeTokens(Tensor logits, int first, std::span<const TokenChoice> choices,
                              const int32_t* tokens, TokenDescription* descriptions) = 0;

  /// Copies fp32 rows to `host` [rows, columns]; they are there at once.
  virtual void CopyToHost(const Tensor& x, float* host) = 0;

  /// Copies between any two of host and device memory. Host memory may be reused at once.
  virtual void Copy(std::byte* destination, const std::byte* source, int64_t bytes) = 0;

  /// Queue copies of whole blocks to slots of host memory, and back: blocks differ from one
  /// another, and so do slots. The memory stays until Synchronize; `copies` may be reused at once.
  virtual void CopyToSlots(const BlockCopies& copies) = 0;
  virtual void CopyFromSlots(const BlockCopies& copies) = 0;

  /// Bytes per second that the device reads from its memory, measured now: the ceiling beside which
  /// benchmarks print what they reached.
  virtual double MeasureReadBandwidth() = 0;

  /// Waits for queued work; the first error since the last call.
  virtual absl::Status Synchronize() = 0;
};

}  // namespace winnow

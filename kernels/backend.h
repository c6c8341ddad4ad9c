#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/data_type.h"
#include "kernels/selection.h"
#include "kernels/step_batch.h"

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

/// A view of activations in device memory: fp32 [rows, columns], rows `stride` elements apart.
struct Tensor {
  float* data = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;

  /// The columns from `begin` on, `count` of them.
  Tensor Columns(int64_t begin, int64_t count) const { return {data + begin, rows, count, stride}; }
};

/// Geometry and memory of the KV pool. Layout: [layers, blocks, kv_heads, block_tokens, 2 (K then
/// V), head_dim] in fp16. Key and value of a token lie side by side, so that fetching a selected
/// one costs one access to a random page, not two.
struct KvCache {
  std::byte* data = nullptr;
  int layers = 0;
  int blocks = 0;
  int kv_heads = 0;
  int block_tokens = 0;
  int head_dim = 0;

  int64_t token_elements() const { return int64_t{2} * head_dim; }  ///< of one head
  int64_t head_block_elements() const { return block_tokens * token_elements(); }
  int64_t block_bytes() const {  ///< of one block in one layer, keys and values
    return kv_heads * head_block_elements() * static_cast<int64_t>(sizeof(uint16_t));
  }
  int64_t bytes() const { return int64_t{layers} * blocks * block_bytes(); }
  std::byte* block(int layer, int id) const {
    return data + (int64_t{layer} * blocks + id) * block_bytes();
  }
  /// Where the key of a token of the block begins; its value follows, head_dim elements on.
  uint16_t* key(int layer, int id, int kv_head, int slot) const {
    return reinterpret_cast<uint16_t*>(block(layer, id)) + kv_head * head_block_elements() +
           slot * token_elements();
  }
};

/// Which dimensions of a head RoPE rotates together.
enum class RopePairing {
  kAdjacent,  ///< (2i, 2i + 1), as permuted GGUF llama files
  kHalves,    ///< (i, i + rope_dim / 2), as Hugging Face checkpoints
};

/// Compute on one device. An operator has the same name, meaning and test on every backend.
/// Operators queue work in order; results are there after Synchronize. A backend is used by one
/// thread at a time. Sizes are checked when the model is loaded, so operators assert only.
///
/// On the CPU a row's result never depends on the other rows of the call (row invariance).
class Backend {
 public:
  virtual ~Backend() = default;

  /// "cpu" or "cuda".
  virtual std::string_view name() const = 0;

  /// Zeroed device memory. RESOURCE_EXHAUSTED names what was needed.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> Allocate(int64_t bytes) = 0;

  /// Prepares a weight: `parts` stacked along their rows (such as Q, K and V projections), which
  /// may differ in type. INVALID_ARGUMENT when their columns differ or a type is not supported.
  virtual absl::StatusOr<std::unique_ptr<Matrix>> LoadMatrix(std::span<const HostMatrix> parts) = 0;

  /// Prepares an embedding table [vocab, hidden] to look rows up in. The CPU backend keeps pointing
  /// at table.data, which must stay alive.
  virtual absl::StatusOr<std::unique_ptr<Matrix>> LoadEmbedding(const HostMatrix& table) = 0;

  /// out[t, :] = table[tokens[t], :].
  virtual void Embed(const Matrix& table, std::span<const int32_t> tokens, Tensor out) = 0;

  /// out[t, c] = x[t, c] / sqrt(mean_c(x[t, c]^2) + epsilon) * weight[c].
  virtual void RmsNorm(Tensor x, const float* weight, float epsilon, Tensor out) = 0;

  /// out[t, n] = sum_k x[t, k] w[n, k] + bias[n]; `bias` may be null. With `accumulate` the product
  /// is added to what `out` holds (the residual stream).
  virtual void MatMul(Tensor x, const Matrix& w, const float* bias, bool accumulate,
                      Tensor out) = 0;

  /// Rotates the queries and keys of `qkv` ([rows, (heads + 2 kv_heads) head_dim]: Q, then K, then
  /// V) to their positions, in place, and writes keys and values, and the keys' labels if the layer
  /// keeps them, to the blocks of the batch.
  /// `rope_frequencies` [rope_dim / 2]: radians per position of each pair.
  virtual void RopeAndStoreKv(const StepBatch& batch, Tensor qkv, int heads, RopePairing pairing,
                              std::span<const float> rope_frequencies, const KvCache& cache,
                              int layer, const LayerSelector& selector) = 0;

  /// Causal attention of every row's queries (in `qkv`, as above) over selected keys and values of
  /// its sequence, up to its own position:
  ///   out[t, h, :] = sum_j softmax_j(q[t, h] . k[j, g] / sqrt(head_dim)) v[j, g],
  /// g = h kv_heads / heads, j in S[t, g]. S is everything for dense rows (BudgetTokens = context).
  /// Else it holds BudgetTokens positions: sinks, window, and of the others those with the largest
  ///   mean over h in g of softmax_j(score[t, h, j]),
  /// lower positions first among equals. Scores are approximate ones from labels (LabelCodec; the
  /// query's side is rounded to 8 bits) or exact ones, as batch.selections says.
  virtual void Attention(const StepBatch& batch, Tensor qkv, int heads, const KvCache& cache,
                         int layer, const LayerSelector& selector, Tensor out) = 0;

  /// For each probe of this layer: the share of the exact softmax mass that S[row, kv_head] of the
  /// last call of Attention holds, mean over the query heads; 1 for dense rows. Reads every key.
  /// `recalls` [probes] in host memory, there after Synchronize.
  virtual void MeasureRecall(const StepBatch& batch, Tensor qkv, int heads, const KvCache& cache,
                             int layer, std::span<const RecallProbe> probes, float* recalls) = 0;

  /// out[t, c] = silu(gate_up[t, c]) * gate_up[t, ffn + c], out [rows, ffn].
  virtual void SwiGlu(Tensor gate_up, Tensor out) = 0;

  /// out[i, :] = x[rows[i], :].
  virtual void GatherRows(Tensor x, std::span<const int32_t> rows, Tensor out) = 0;

  virtual void CopyToHost(const Tensor& x, float* host) = 0;
  virtual void Copy(std::byte* destination, const std::byte* source, int64_t bytes) = 0;

  /// Bytes per second that the device reads from its memory, measured now: the ceiling beside which
  /// benchmarks print what they reached.
  virtual double MeasureReadBandwidth() = 0;

  /// Waits for queued work; the first error since the last call.
  virtual absl::Status Synchronize() = 0;
};

}  // namespace winnow

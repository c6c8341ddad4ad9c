#include "kernels/cpu/cpu_backend.h"

#include <sys/mman.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/quantized_rows.h"
#include "kernels/cpu/read_bandwidth.h"
#include "kernels/cpu/thread_pool.h"

namespace winnow {
namespace {

using namespace cpu;  // NOLINT: the backend is the front of that namespace

// Rows of x that a work item of a product covers, so that their codes stay in the L2 cache while
// the item's panels pass by.
constexpr int64_t kItemRows = 128;
// Query rows of a prefill chunk that one work item attends with.
constexpr int kQueryTile = 16;
// Below this many elements a row-wise operator is not worth waking the workers.
constexpr int64_t kSerialElements = 16384;

// Zeroed pages that become resident when they are first written.
class HostBuffer : public Buffer {
 public:
  HostBuffer(std::byte* data, int64_t bytes) : data_(data), bytes_(bytes) {}
  ~HostBuffer() override { munmap(data_, bytes_); }
  std::byte* data() override { return data_; }
  int64_t bytes() const override { return bytes_; }

 private:
  std::byte* data_;
  int64_t bytes_;
};

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
      : widen_(options.f32_matmul), pool_(options.threads), scratch_(pool_.threads()) {}

  std::string_view name() const override { return "cpu"; }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(int64_t bytes) override {
    const int64_t size = std::max<int64_t>(bytes, 1);
    void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) {
      return absl::ResourceExhaustedError(
          absl::StrCat("no memory for a buffer of ", bytes, " bytes"));
    }
    madvise(data, size, MADV_HUGEPAGE);
    return std::make_unique<HostBuffer>(static_cast<std::byte*>(data), size);
  }

  absl::StatusOr<std::unique_ptr<Matrix>> LoadMatrix(std::span<const HostMatrix> parts) override {
    return PackedMatrix::Pack(parts, widen_);
  }

  absl::StatusOr<std::unique_ptr<Matrix>> LoadEmbedding(const HostMatrix& table) override {
    return std::make_unique<HostTable>(table);
  }

  void Embed(const Matrix& table, std::span<const int32_t> tokens, Tensor out) override {
    const auto& host_table = static_cast<const HostTable&>(table);
    for (size_t t = 0; t < tokens.size(); ++t) host_table.Row(tokens[t], out.data + t * out.stride);
  }

  void RmsNorm(Tensor x, const float* weight, float epsilon, Tensor out) override {
    ForRows(x.rows, x.columns, [&](int64_t t) {
      RmsNormRow(x.data + t * x.stride, weight, epsilon, x.columns, out.data + t * out.stride);
    });
  }

  void MatMul(Tensor x, const Matrix& w, const float* bias, bool accumulate, Tensor out) override {
    const auto& matrix = static_cast<const PackedMatrix&>(w);
    assert(x.columns == matrix.columns() && out.rows == x.rows);
    const bool has_integers = std::any_of(matrix.segments().begin(), matrix.segments().end(),
                                          [](const Segment& s) { return IsInteger(s.format); });
    if (has_integers) {
      quantized_.Resize(x.rows, x.columns);
      ForRows(x.rows, x.columns,
              [&](int64_t t) { QuantizeRow(x.data + t * x.stride, t, &quantized_); });
    }
    items_.clear();
    for (const Segment& segment : matrix.segments()) {
      const int64_t row_items = (x.rows + kItemRows - 1) / kItemRows;
      // Several items a worker, so that a disturbed one does not hold up the others.
      const int64_t wanted = std::max<int64_t>(1, pool_.threads() * 6 / row_items);
      const int64_t step = std::max<int64_t>(1, segment.panels() / wanted);
      for (int64_t panel = 0; panel < segment.panels(); panel += step) {
        for (int64_t row = 0; row < x.rows; row += kItemRows) {
          items_.push_back({&matrix, &segment, panel, std::min(panel + step, segment.panels()), row,
                            std::min(row + kItemRows, x.rows), bias, accumulate, out});
        }
      }
    }
    pool_.ParallelFor(static_cast<int64_t>(items_.size()), [&](int64_t i, int) {
      const MatMulItem& item = items_[i];
      if (IsInteger(item.segment->format)) {
        MatMulInteger(item, quantized_);
      } else {
        MatMulFloat(item, x);
      }
    });
  }

  void RopeAndStoreKv(const StepBatch& batch, Tensor qkv, int heads, RopePairing pairing,
                      std::span<const float> rope_frequencies, const KvCache& cache,
                      int layer) override {
    if (layer == 0) ComputeRotations(batch, rope_frequencies);
    const int half = static_cast<int>(rope_frequencies.size());
    const auto rotate = pairing == RopePairing::kAdjacent ? RopeAdjacent : RopeHalves;
    MapRowsToSequences(batch);
    ForRows(batch.rows(), qkv.columns, [&](int64_t t) {
      float* row = qkv.data + t * qkv.stride;
      const float* cosines = rotations_.data() + t * 2 * half;
      for (int h = 0; h < heads + cache.kv_heads; ++h) {
        rotate(cosines, cosines + half, 2 * half, row + h * cache.head_dim);
      }
      const int position = batch.positions[t];
      const int32_t* table = batch.block_tables.data() + row_sequence_[t] * batch.max_blocks;
      auto* block =
          reinterpret_cast<uint16_t*>(cache.block(layer, table[position / cache.block_tokens]));
      const float* keys = row + heads * cache.head_dim;
      const int64_t offset = position % cache.block_tokens * int64_t{cache.head_dim};
      for (int part = 0; part < 2 * cache.kv_heads; ++part) {  // K heads, then V heads
        ToHalf(keys + part * cache.head_dim, cache.head_dim,
               block + part * cache.head_block_elements() + offset);
      }
    });
  }

  void Attention(const StepBatch& batch, Tensor qkv, int heads, const KvCache& cache, int layer,
                 Tensor out) override {
    // Prefill rows are tiled by queries, each tile walking its chunks in order. A decode row has
    // its chunks spread over the workers and merged, in the same order, afterwards.
    tiles_.clear();
    int64_t partial_count = 0;
    const int group = heads / cache.kv_heads;
    for (int s = 0; s < batch.sequences(); ++s) {
      const int begin = batch.query_begin[s];
      const int end = batch.query_begin[s + 1];
      const int32_t* table = batch.block_tables.data() + int64_t{s} * batch.max_blocks;
      for (int row = begin; row < end; row += kQueryTile) {
        const int rows = std::min(kQueryTile, end - row);
        const int context = batch.positions[row + rows - 1] + 1;
        const int chunks = (context + kChunkTokens - 1) / kChunkTokens;
        const bool split = end - begin == 1;
        for (int g = 0; g < cache.kv_heads; ++g) {
          if (!split) tiles_.push_back({row, rows, g, table, 0, chunks, -1});
          for (int c = 0; split && c < chunks; ++c) {
            tiles_.push_back({row, 1, g, table, c, c + 1, partial_count});
            partial_count += group;
          }
        }
      }
    }
    partials_.resize(partial_count);
    partial_outs_.resize(partial_count * cache.head_dim);
    for (int64_t i = 0; i < partial_count; ++i) {
      partials_[i].out = partial_outs_.data() + i * cache.head_dim;
    }
    const AttentionCall call{qkv, group, cache, layer, out, batch.positions};
    pool_.ParallelFor(static_cast<int64_t>(tiles_.size()), [&](int64_t i, int worker) {
      AttendTile(call, tiles_[i], &scratch_[worker]);
    });
    MergeSplitTiles(call);
  }

  void SwiGlu(Tensor gate_up, Tensor out) override {
    ForRows(out.rows, out.columns * 8, [&](int64_t t) {  // an exponential weighs several additions
      const float* row = gate_up.data + t * gate_up.stride;
      SwiGluRow(row, row + out.columns, out.columns, out.data + t * out.stride);
    });
  }

  void GatherRows(Tensor x, std::span<const int32_t> rows, Tensor out) override {
    for (size_t i = 0; i < rows.size(); ++i) {
      std::memcpy(out.data + i * out.stride, x.data + rows[i] * x.stride,
                  x.columns * sizeof(float));
    }
  }

  void CopyToHost(const Tensor& x, float* host) override {
    for (int64_t t = 0; t < x.rows; ++t) {
      std::memcpy(host + t * x.columns, x.data + t * x.stride, x.columns * sizeof(float));
    }
  }

  void Copy(std::byte* destination, const std::byte* source, int64_t bytes) override {
    std::memcpy(destination, source, bytes);
  }

  double MeasureReadBandwidth() override { return cpu::MeasureReadBandwidth(pool_); }

  absl::Status Synchronize() override { return absl::OkStatus(); }

 private:
  // Some query rows of one sequence times one KV head times some chunks of its context.
  struct Tile {
    int first_row;
    int rows;
    int kv_head;
    const int32_t* block_table;
    int first_chunk;
    int last_chunk;
    int64_t partial;  ///< index of the first of `group` partials to leave; -1: write the output
  };

  struct AttentionCall {
    Tensor qkv;
    int group;  ///< query heads per KV head
    const KvCache& cache;
    int layer;
    Tensor out;
    std::span<const int32_t> positions;
  };

  // What a worker needs to attend with one tile.
  struct Scratch {
    std::vector<float> scores;
    std::vector<float> outs;
    std::vector<Partial> chunk;
    std::vector<Partial> total;
  };

  template <typename Body>
  void ForRows(int64_t rows, int64_t elements_per_row, const Body& body) {
    if (rows * elements_per_row < kSerialElements) {
      for (int64_t t = 0; t < rows; ++t) body(t);
    } else {
      pool_.ParallelFor(rows, [&](int64_t t, int) { body(t); });
    }
  }

  // Cosines and sines of the step's positions: [rows, 2, rope_dim / 2], the same for all layers.
  void ComputeRotations(const StepBatch& batch, std::span<const float> frequencies) {
    const size_t half = frequencies.size();
    rotations_.resize(batch.rows() * 2 * half);
    ForRows(batch.rows(), static_cast<int64_t>(half) * 64, [&](int64_t t) {
      float* cosines = rotations_.data() + t * 2 * half;
      for (size_t i = 0; i < half; ++i) {
        const double angle = double{frequencies[i]} * batch.positions[t];
        cosines[i] = static_cast<float>(std::cos(angle));
        cosines[half + i] = static_cast<float>(std::sin(angle));
      }
    });
  }

  void MapRowsToSequences(const StepBatch& batch) {
    row_sequence_.resize(batch.rows());
    for (int s = 0; s < batch.sequences(); ++s) {
      std::fill(row_sequence_.begin() + batch.query_begin[s],
                row_sequence_.begin() + batch.query_begin[s + 1], s);
    }
  }

  void AttendTile(const AttentionCall& call, const Tile& tile, Scratch* scratch) {
    const KvCache& cache = call.cache;
    const int head_dim = cache.head_dim;
    const int queries = tile.rows * call.group;
    scratch->scores.resize(int64_t{queries} * kChunkTokens);
    scratch->outs.resize(int64_t{2} * queries * head_dim);
    scratch->chunk.resize(queries);
    scratch->total.resize(queries);
    const float* query[kQueryTile * 64];
    int counts[kQueryTile * 64];
    assert(call.group <= 64);
    for (int i = 0; i < queries; ++i) {
      const int row = tile.first_row + i / call.group;
      const int head = tile.kv_head * call.group + i % call.group;
      query[i] = call.qkv.data + row * call.qkv.stride + head * head_dim;
      float* outs = scratch->outs.data() + int64_t{2} * i * head_dim;
      scratch->chunk[i].out = tile.partial < 0 ? outs : partials_[tile.partial + i].out;
      scratch->total[i] = {-INFINITY, 0, outs + head_dim};
      std::fill(outs + head_dim, outs + 2 * head_dim, 0.0f);
    }
    const float scale = 1 / std::sqrt(static_cast<float>(head_dim));
    for (int c = tile.first_chunk; c < tile.last_chunk; ++c) {
      // Queries whose position lies before the chunk see nothing of it: they are the first ones.
      int first = 0;
      for (int i = 0; i < queries; ++i) {
        const int visible = call.positions[tile.first_row + i / call.group] + 1 - c * kChunkTokens;
        if (visible <= 0) first = i + 1;
        counts[i] = std::clamp(visible, 0, kChunkTokens);
      }
      const uint16_t* keys[kChunkTokens];
      const uint16_t* values[kChunkTokens];
      const int blocks = (counts[queries - 1] + cache.block_tokens - 1) / cache.block_tokens;
      for (int b = 0; b < blocks; ++b) {
        const int id = tile.block_table[c * (kChunkTokens / cache.block_tokens) + b];
        const auto* block = reinterpret_cast<const uint16_t*>(cache.block(call.layer, id));
        keys[b] = block + tile.kv_head * cache.head_block_elements();
        values[b] = keys[b] + cache.kv_heads * cache.head_block_elements();
      }
      AttendChunk({keys, values, cache.block_tokens, head_dim}, query + first, counts + first,
                  queries - first, scale, scratch->scores.data(), scratch->chunk.data() + first);
      if (tile.partial >= 0) continue;
      for (int i = first; i < queries; ++i) {
        MergePartial(scratch->chunk[i], head_dim, &scratch->total[i]);
      }
    }
    for (int i = 0; i < queries; ++i) {
      if (tile.partial >= 0) {
        partials_[tile.partial + i] = scratch->chunk[i];
      } else {
        WriteOutput(call, tile.first_row + i / call.group,
                    tile.kv_head * call.group + i % call.group, scratch->total[i]);
      }
    }
  }

  void MergeSplitTiles(const AttentionCall& call) {
    const int head_dim = call.cache.head_dim;
    merged_.resize(head_dim);
    for (size_t i = 0; i < tiles_.size();) {
      const Tile& first = tiles_[i];
      size_t end = i + 1;
      while (first.partial >= 0 && end < tiles_.size() && tiles_[end].first_chunk > 0 &&
             tiles_[end].partial >= 0) {
        ++end;
      }
      for (int h = 0; first.partial >= 0 && h < call.group; ++h) {
        std::fill(merged_.begin(), merged_.end(), 0.0f);
        Partial total{-INFINITY, 0, merged_.data()};
        for (size_t t = i; t < end; ++t) {
          MergePartial(partials_[tiles_[t].partial + h], head_dim, &total);
        }
        WriteOutput(call, first.first_row, first.kv_head * call.group + h, total);
      }
      i = end;
    }
  }

  static void WriteOutput(const AttentionCall& call, int row, int head, const Partial& total) {
    const int head_dim = call.cache.head_dim;
    float* out = call.out.data + row * call.out.stride + head * head_dim;
    const float inverse = 1 / total.sum;
    for (int c = 0; c < head_dim; ++c) out[c] = total.out[c] * inverse;
  }

  const bool widen_;
  ThreadPool pool_;
  QuantizedRows quantized_;
  std::vector<MatMulItem> items_;
  std::vector<float> rotations_;
  std::vector<int32_t> row_sequence_;
  std::vector<Tile> tiles_;
  std::vector<Partial> partials_;
  std::vector<float> partial_outs_;
  std::vector<float> merged_;
  std::vector<Scratch> scratch_;  ///< one per worker
};

}  // namespace

std::unique_ptr<Backend> CreateCpuBackend(const CpuOptions& options) {
  return std::make_unique<CpuBackend>(options);
}

int64_t CpuMatrixBytes(DataType type, int64_t rows, int64_t columns) {
  return PackedBytes(type, rows, columns);
}

}  // namespace winnow

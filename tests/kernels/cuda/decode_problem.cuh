#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "kernels/cuda/budgets.cuh"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/label_layout.cuh"
#include "tests/kernels/cuda/device_array.cuh"

namespace winnow::cuda {

struct Row {
  int context = 1;
  Selection selection;
};

struct Shape {
  int kv_heads = 2;
  int group = 1;
  int head_dim = 128;
  int block_tokens = 32;
  int width = 8;
  float scale = 0;  // 0: 1 / sqrt(head_dim)
  float soft_cap = 0;
  int sliding_window = 0;
  OutType out_type = OutType::kF32;
  int codes = 16;         // labels hold numbers below this: few make many ties
  float query_range = 2;  // a large one makes scores too wide for weights without their maximum
  int most_selected = INT_MAX;  // room in lists, whatever budgets need
  int spoilt_keys = 0;          // one key in so many is no number; 0: none
  float spoilt_queries = 0;     // every number of every query, unless 0
};

inline constexpr int kSinks = 4;
inline constexpr int kWindow = 16;
inline constexpr int kMinContext = 30;

// Random keys, values, labels and queries, on the host and on the device, and what the operator
// should make of them, in float64. Everything that the operator may not use is NaN or noise.
class Problem {
 public:
  Problem(const Shape& shape, std::vector<Row> rows, uint32_t seed)
      : shape_(shape), rows_(std::move(rows)), random_(seed) {
    const int count = static_cast<int>(rows_.size());
    std::uniform_real_distribution<float> weight(0.25f, 2);
    for (int g = 0; g < shape.kv_heads; ++g) weights_.push_back(g == 0 ? 1 : weight(random_));
    for (const Row& row : rows_) {
      max_context_ = std::max(max_context_, row.context);
    }
    for (int row = 0; row < count; ++row) {
      for (int g = 0; g < shape.kv_heads; ++g) {
        if (Selects(row, g)) {
          max_selected_ = std::max(max_selected_, Budget(row, g));
        }
      }
    }
    max_selected_ = std::min(max_selected_, shape.most_selected);
    max_blocks_ = (max_context_ + shape.block_tokens - 1) / shape.block_tokens;
    blocks_ = count * max_blocks_ + 3;
    std::vector<int32_t> ids(blocks_);
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), random_);
    tables_.assign(ids.begin(), ids.begin() + count * max_blocks_);
    spare_block_ = ids.back();

    sequences_.resize(count);
    std::iota(sequences_.begin(), sequences_.end(), 0);
    std::shuffle(sequences_.begin(), sequences_.end(), random_);
    query_rows_.resize(count);
    std::iota(query_rows_.begin(), query_rows_.end(), 1);
    std::shuffle(query_rows_.begin(), query_rows_.end(), random_);
    MakePools();
    MakeQueries();
    HideUnseenBlocks();
  }

  // Launches with poisoned outputs. All arrays stay on the device.
  void Run() {
    Prepare();
    Check(LaunchDecodeAttention(call_, nullptr));
    Collect();
  }

  // The same as a replay of a graph that was captured, and first run, on other contexts.
  void RunCaptured() {
    Prepare();
    contexts_device_->Set(std::vector<int32_t>(rows_.size(), 1));
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    Check(cudaStreamCreate(&stream));
    Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    Check(LaunchDecodeAttention(call_, stream));
    Check(LaunchDecodeAttention(call_, stream));
    Check(cudaStreamEndCapture(stream, &graph));
    Check(cudaGraphInstantiate(&executable, graph, 0));
    Check(cudaGraphLaunch(executable, stream));
    Check(cudaStreamSynchronize(stream));
    contexts_device_->Set(contexts_);
    Poison();
    Check(cudaGraphLaunch(executable, stream));
    Check(cudaStreamSynchronize(stream));
    Check(cudaGraphExecDestroy(executable));
    Check(cudaGraphDestroy(graph));
    Check(cudaStreamDestroy(stream));
    Collect();
  }

  const std::vector<uint8_t>& result() const { return result_; }

  // Every head that selects lists as many tokens of its context as it has a budget for.
  void CheckPositions() const {
    for (int row = 0; row < static_cast<int>(rows_.size()); ++row) {
      for (int g = 0; g < shape_.kv_heads; ++g) {
        if (Selects(row, g)) {
          ASSERT_EQ(std::ssize(SelectedPositions(row, g)), Budget(row, g))
              << "row " << row << " kv head " << g << ": not distinct, ascending, in context";
        }
      }
    }
  }

  void CheckAll() {
    for (size_t row = 0; row < rows_.size(); ++row) {
      for (int g = 0; g < shape_.kv_heads; ++g) {
        SCOPED_TRACE("row " + std::to_string(row) + " kv head " + std::to_string(g) + " context " +
                     std::to_string(rows_[row].context) + " budget " +
                     std::to_string(Budget(static_cast<int>(row), g)) + " kind " +
                     std::to_string(static_cast<int>(rows_[row].selection.kind)));
        CheckHead(static_cast<int>(row), g);
        if (::testing::Test::HasFailure()) return;
      }
    }
    CheckUntouched();
  }

 private:
  float Dyadic(float range) {  // sums of products of such numbers are exact in fp32
    std::uniform_int_distribution<int> sixteenths(-16, 16);
    return static_cast<float>(sixteenths(random_)) / 16 * range;
  }
  int query_stride() const { return (shape_.kv_heads * shape_.group + 3) * shape_.head_dim; }
  int Budget(int row, int g) const {
    LayerAttention attention;
    attention.sliding_window = shape_.sliding_window;
    attention.budget_weights = weights_.data();
    attention.sinks = kSinks;
    attention.window = kWindow;
    attention.min_context = kMinContext;
    const int budget = BudgetTokens(rows_[row].selection, attention, g, rows_[row].context);
    return budget < rows_[row].context ? std::min(budget, shape_.most_selected) : budget;
  }
  bool Selects(int row, int g) const {
    return shape_.sliding_window == 0 && Budget(row, g) < rows_[row].context;
  }
  // The first position that the row sees.
  int FirstSeen(int row) const {
    return shape_.sliding_window == 0 ? 0 : std::max(0, rows_[row].context - shape_.sliding_window);
  }
  float scale() const {
    return shape_.scale != 0 ? shape_.scale : 1 / std::sqrt(static_cast<float>(shape_.head_dim));
  }
  int Entry(int row, int g, int position) const {
    const int block = tables_[sequences_[row] * max_blocks_ + position / shape_.block_tokens];
    return (block * shape_.kv_heads + g) * shape_.block_tokens + position % shape_.block_tokens;
  }
  int64_t LabelByte(int row, int g, int position, int piece) const {
    const int block = tables_[sequences_[row] * max_blocks_ + position / shape_.block_tokens];
    const int64_t head_bytes = int64_t{shape_.block_tokens} * shape_.width / 2;
    const int slot = position % shape_.block_tokens;
    return (block * shape_.kv_heads + g) * head_bytes +
           (shape_.width < 8 ? 2 * slot : LabelOffset(slot, shape_.width, piece));
  }

  void MakePools() {
    const int64_t tokens = int64_t{blocks_} * shape_.kv_heads * shape_.block_tokens;
    kv_.assign(tokens * 2 * shape_.head_dim, 0xffff);  // NaN
    labels_.resize(tokens * shape_.width / 2);
    for (uint8_t& byte : labels_) byte = static_cast<uint8_t>(random_());
    std::normal_distribution<float> normal;
    std::uniform_int_distribution<int> code(0, shape_.codes - 1);
    codes_.resize(rows_.size() * shape_.kv_heads);
    for (int row = 0; row < static_cast<int>(rows_.size()); ++row) {
      for (int g = 0; g < shape_.kv_heads; ++g) {
        auto& codes = codes_[row * shape_.kv_heads + g];
        codes.resize(int64_t{rows_[row].context} * shape_.width);
        for (uint8_t& c : codes) c = static_cast<uint8_t>(code(random_));
        for (int p = FirstSeen(row); p < rows_[row].context; ++p) {
          uint16_t* key = &kv_[int64_t{Entry(row, g, p)} * 2 * shape_.head_dim];
          for (int c = 0; c < 2 * shape_.head_dim; ++c) {
            key[c] = __half_as_ushort(__float2half_rn(normal(random_)));
          }
          if (shape_.spoilt_keys > 0 && random_() % shape_.spoilt_keys == 0) {
            key[3] = random_() % 2 == 0 ? 0x7fff : 0xffff;  // NaN of either sign
          }
          WriteLabel(row, g, p, &codes[int64_t{p} * shape_.width]);
        }
      }
    }
  }

  // What lies before the rows' windows may be others' by now: here a block of NaN.
  void HideUnseenBlocks() {
    for (int row = 0; row < static_cast<int>(rows_.size()); ++row) {
      std::fill_n(tables_.begin() + int64_t{sequences_[row]} * max_blocks_,
                  FirstSeen(row) / shape_.block_tokens, spare_block_);
    }
  }

  void WriteLabel(int row, int g, int position, const uint8_t* codes) {
    if (shape_.width == 4) {
      uint8_t* label = &labels_[LabelByte(row, g, position, 0)];
      label[0] = static_cast<uint8_t>(codes[0] | codes[2] << 4);
      label[1] = static_cast<uint8_t>(codes[1] | codes[3] << 4);
      return;
    }
    for (int piece = 0; piece < shape_.width / 8; ++piece) {
      int eight[8];
      for (int i = 0; i < 8; ++i) eight[i] = codes[8 * piece + i];
      const uint32_t word = PackLabel(eight);
      std::memcpy(&labels_[LabelByte(row, g, position, piece)], &word, sizeof(word));
    }
  }

  void MakeQueries() {
    queries_.assign((rows_.size() + 1) * query_stride(), NAN);
    for (const int row : query_rows_) {
      for (int i = 0; i < shape_.kv_heads * shape_.group * shape_.head_dim; ++i) {
        queries_[int64_t{row} * query_stride() + i] =
            shape_.spoilt_queries != 0 ? shape_.spoilt_queries : Dyadic(shape_.query_range);
      }
    }
    basis_.resize(shape_.kv_heads * shape_.head_dim * shape_.width);
    for (float& x : basis_) x = Dyadic(0.0625f);
    for (const Row& row : rows_) {
      contexts_.push_back(row.context);
      selections_.push_back(row.selection);
    }
  }

  void Prepare() {
    const int rows = static_cast<int>(rows_.size());
    if (kv_device_ == nullptr) {
      kv_device_ = std::make_unique<DeviceArray<uint16_t>>(kv_);
      labels_device_ = std::make_unique<DeviceArray<uint8_t>>(labels_);
      queries_device_ = std::make_unique<DeviceArray<float>>(queries_);
      basis_device_ = std::make_unique<DeviceArray<float>>(basis_);
      tables_device_ = std::make_unique<DeviceArray<int32_t>>(tables_);
      sequences_device_ = std::make_unique<DeviceArray<int32_t>>(sequences_);
      query_rows_device_ = std::make_unique<DeviceArray<int32_t>>(query_rows_);
      contexts_device_ = std::make_unique<DeviceArray<int32_t>>(contexts_);
      selections_device_ = std::make_unique<DeviceArray<Selection>>(selections_);
      selected_device_ = std::make_unique<DeviceArray<uint32_t>>(SelectedEntries() + kBehind);
      out_device_ = std::make_unique<DeviceArray<uint8_t>>(
          queries_.size() * (shape_.out_type == OutType::kF32 ? 4 : 2));
      const int64_t bytes =
          DecodeWorkspaceBytes(rows, shape_.kv_heads, shape_.head_dim, max_context_);
      workspace_device_ = std::make_unique<DeviceArray<uint8_t>>(bytes);
      workspace_device_->Fill(0);
    }
    const bool has_scores =
        std::ranges::count(selections_, SelectionKind::kScores, &Selection::kind) > 0;
    call_ = {.kv_heads = shape_.kv_heads,
             .group = shape_.group,
             .head_dim = shape_.head_dim,
             .block_tokens = shape_.block_tokens,
             .scale = scale(),
             .soft_cap = shape_.soft_cap,
             .sliding_window = shape_.sliding_window,
             .kv = reinterpret_cast<const std::byte*>(kv_device_->data()),
             .labels = reinterpret_cast<const std::byte*>(labels_device_->data()),
             .label_width = shape_.width,
             .basis = {.query = basis_device_->data()},
             .sinks = kSinks,
             .window = kWindow,
             .min_context = kMinContext,
             .budget_weights = weights_.data(),
             .rows = rows,
             .query_rows = query_rows_device_->data(),
             .sequences = sequences_device_->data(),
             .contexts = contexts_device_->data(),
             .selections = selections_device_->data(),
             .block_tables = tables_device_->data(),
             .max_blocks = max_blocks_,
             .max_context = max_context_,
             .max_selected = max_selected_,
             .exact_scores = has_scores,
             .queries = queries_device_->data(),
             .query_stride = query_stride(),
             .out = out_device_->data(),
             .out_stride = query_stride(),
             .out_type = shape_.out_type,
             .selected = selected_device_->data(),
             .workspace = reinterpret_cast<std::byte*>(workspace_device_->data())};
    Poison();
  }

  void Poison() {
    out_device_->Fill(0xff);
    selected_device_->Fill(0xff);
  }

  void Collect() {
    Check(cudaDeviceSynchronize());
    result_ = out_device_->Get();
    selected_ = selected_device_->Get();
  }

  double Result(int64_t at) const {
    if (shape_.out_type == OutType::kF32) {
      float x;
      std::memcpy(&x, &result_[4 * at], 4);
      return x;
    }
    uint16_t x;
    std::memcpy(&x, &result_[2 * at], 2);
    return __bfloat162float(__ushort_as_bfloat16(x));
  }

  static double Decode(uint16_t half) { return __half2float(__ushort_as_half(half)); }

  double Score(int row, int head, int position) const {
    const uint16_t* key =
        &kv_[int64_t{Entry(row, head / shape_.group, position)} * 2 * shape_.head_dim];
    const float* query =
        &queries_[int64_t{query_rows_[row]} * query_stride() + head * shape_.head_dim];
    double sum = 0;
    for (int c = 0; c < shape_.head_dim; ++c) sum += query[c] * Decode(key[c]);
    const double score = sum * scale();
    const double cap = shape_.soft_cap;
    return cap > 0 ? cap * std::tanh(score / cap) : score;
  }

  // Scores of a query head as the row's kind has them.
  std::vector<double> Scores(int row, int head) const {
    const int g = head / shape_.group;
    const int context = rows_[row].context;
    std::vector<double> scores(context);
    if (rows_[row].selection.kind == SelectionKind::kScores) {
      for (int p = 0; p < context; ++p) scores[p] = Score(row, head, p);
      return scores;
    }
    const float* query =
        &queries_[int64_t{query_rows_[row]} * query_stride() + head * shape_.head_dim];
    std::vector<float> w(shape_.width);
    float largest = 0;
    for (int i = 0; i < shape_.width; ++i) {
      for (int c = 0; c < shape_.head_dim; ++c) {
        w[i] += query[c] * basis_[(g * shape_.head_dim + c) * shape_.width + i];
      }
      largest = std::max(largest, std::abs(w[i]));
    }
    const float to_code = 127 / largest;
    const auto& codes = codes_[row * shape_.kv_heads + g];
    for (int p = 0; p < context; ++p) {
      int sum = 0;
      for (int i = 0; i < shape_.width; ++i) {
        sum +=
            static_cast<int>(std::nearbyint(w[i] * to_code)) * codes[int64_t{p} * shape_.width + i];
      }
      scores[p] = sum * static_cast<double>(largest) / 127 * scale();
    }
    return scores;
  }

  static void Softmax(std::vector<double>& scores) {
    const double max = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (double& s : scores) sum += s = std::exp(s - max);
    for (double& s : scores) s /= sum;
  }

  // Positions that the device says it selected, as far as they are distinct and ascending.
  std::vector<int> SelectedPositions(int row, int g) const {
    const int budget = Budget(row, g);
    const uint32_t* entries = &selected_[(int64_t{row} * shape_.kv_heads + g) * max_selected_];
    std::vector<int> positions;
    for (int p = 0; p < rows_[row].context && static_cast<int>(positions.size()) < budget; ++p) {
      if (static_cast<uint32_t>(Entry(row, g, p)) == entries[positions.size()]) {
        positions.push_back(p);
      }
    }
    return positions;
  }

  // The same, checked for being the best ones.
  std::vector<int> CheckSelection(int row, int g) {
    const int context = rows_[row].context;
    const int budget = Budget(row, g);
    const std::vector<int> positions = SelectedPositions(row, g);
    EXPECT_EQ(static_cast<int>(positions.size()), budget) << "not distinct, ascending, in context";
    if (static_cast<int>(positions.size()) != budget) return positions;
    const bool is_window = rows_[row].selection.kind == SelectionKind::kWindow;
    const int window = is_window ? budget - kSinks : kWindow;
    std::vector<bool> is_selected(context);
    for (const int p : positions) is_selected[p] = true;
    for (int p = 0; p < kSinks; ++p) EXPECT_TRUE(is_selected[p]) << "sink " << p;
    for (int p = context - window; p < context; ++p) EXPECT_TRUE(is_selected[p]) << "window " << p;
    if (is_window) return positions;

    std::vector<double> weights(context);
    for (int h = 0; h < shape_.group; ++h) {
      std::vector<double> scores = Scores(row, g * shape_.group + h);
      // A softmax would only round what one head orders.
      if (shape_.group > 1) Softmax(scores);
      for (int p = 0; p < context; ++p) weights[p] += scores[p] / shape_.group;
    }
    double least_in = INFINITY;
    double largest_out = -INFINITY;
    for (int p = kSinks; p < context - window; ++p) {
      if (is_selected[p]) {
        least_in = std::min(least_in, weights[p]);
      } else {
        largest_out = std::max(largest_out, weights[p]);
      }
    }
    const bool is_exact = rows_[row].selection.kind == SelectionKind::kLabels && shape_.group == 1;
    // fp32 products of scores' rounding: relative for weights, absolute for scores.
    const double tolerance = is_exact            ? 1e-9
                             : shape_.group == 1 ? 1e-4
                                                 : std::max(1e-4 * largest_out, 1e-36);
    EXPECT_GE(least_in, largest_out - tolerance);
    if (rows_[row].selection.kind == SelectionKind::kLabels) CheckTies(row, g, is_selected);
    return positions;
  }

  // Of tokens with equal labels the lower positions come first.
  void CheckTies(int row, int g, const std::vector<bool>& is_selected) {
    const int context = rows_[row].context;
    const auto& codes = codes_[row * shape_.kv_heads + g];
    std::set<std::vector<uint8_t>> left_out;
    for (int p = kSinks; p < context - kWindow; ++p) {
      const std::vector<uint8_t> label(codes.begin() + int64_t{p} * shape_.width,
                                       codes.begin() + int64_t{p + 1} * shape_.width);
      if (!is_selected[p]) {
        left_out.insert(label);
      } else {
        EXPECT_FALSE(left_out.contains(label)) << "position " << p << " before an equal, lower one";
      }
    }
  }

  void CheckHead(int row, int g) {
    const int context = rows_[row].context;
    std::vector<int> positions(context - FirstSeen(row));
    std::iota(positions.begin(), positions.end(), FirstSeen(row));
    if (Selects(row, g)) positions = CheckSelection(row, g);
    double error = 0;
    double norm = 0;
    for (int h = 0; h < shape_.group; ++h) {
      const int head = g * shape_.group + h;
      std::vector<double> weights;
      for (const int p : positions) weights.push_back(Score(row, head, p));
      Softmax(weights);
      std::vector<double> expected(shape_.head_dim);
      for (size_t j = 0; j < positions.size(); ++j) {
        const uint16_t* value =
            &kv_[int64_t{Entry(row, g, positions[j])} * 2 * shape_.head_dim + shape_.head_dim];
        for (int c = 0; c < shape_.head_dim; ++c) {
          expected[c] += weights[j] * Decode(value[c]);
        }
      }
      for (int c = 0; c < shape_.head_dim; ++c) {
        const double out =
            Result(int64_t{query_rows_[row]} * query_stride() + head * shape_.head_dim + c);
        error += (out - expected[c]) * (out - expected[c]);
        norm += expected[c] * expected[c];
      }
    }
    const double tolerance = shape_.out_type == OutType::kF32 ? 5e-5 : 4e-3;
    EXPECT_LT(std::sqrt(error), tolerance * std::sqrt(norm));  // fails for NaN
  }

  int64_t SelectedEntries() const { return std::ssize(rows_) * shape_.kv_heads * max_selected_; }

  // Nothing is written but the rows' heads, and nothing behind the lists.
  void CheckUntouched() const {
    for (int64_t i = SelectedEntries(); i < std::ssize(selected_); ++i) {
      ASSERT_EQ(selected_[i], ~0u) << i;
    }
    const int64_t used = shape_.kv_heads * shape_.group * shape_.head_dim;
    for (int64_t i = 0; i < static_cast<int64_t>(queries_.size()); ++i) {
      if (i >= query_stride() && i % query_stride() < used) continue;
      ASSERT_TRUE(std::isnan(Result(i))) << i;
    }
  }

  static constexpr int kBehind = 4096;  // entries

  Shape shape_;
  std::vector<Row> rows_;
  std::mt19937 random_;
  int max_context_ = 0;
  int max_selected_ = 0;
  int max_blocks_ = 0;
  int blocks_ = 0;
  int32_t spare_block_ = 0;  // of no row
  std::vector<int32_t> tables_, sequences_, query_rows_, contexts_;
  std::vector<Selection> selections_;
  std::vector<float> weights_;  // of budgets
  std::vector<uint16_t> kv_;
  std::vector<uint8_t> labels_;
  std::vector<std::vector<uint8_t>> codes_;  // [rows, kv_heads] of [context, width]
  std::vector<float> queries_, basis_;
  DecodeAttention call_;
  std::unique_ptr<DeviceArray<uint16_t>> kv_device_;
  std::unique_ptr<DeviceArray<uint8_t>> labels_device_, out_device_, workspace_device_;
  std::unique_ptr<DeviceArray<float>> queries_device_, basis_device_;
  std::unique_ptr<DeviceArray<int32_t>> tables_device_, sequences_device_, query_rows_device_,
      contexts_device_;
  std::unique_ptr<DeviceArray<Selection>> selections_device_;
  std::unique_ptr<DeviceArray<uint32_t>> selected_device_;
  std::vector<uint8_t> result_;
  std::vector<uint32_t> selected_;
};

}  // namespace winnow::cuda

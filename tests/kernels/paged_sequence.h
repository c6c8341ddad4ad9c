#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/label_scores.h"
#include "tests/kernels/reference.h"

namespace winnow::test {

/// Sizes of a layer and of the sequence in it.
struct Shape {
  int heads = 6;
  int kv_heads = 2;
  int head_dim = 64;
  int width = 16;
  int context = 700;
  int block_tokens = 32;
  int group() const { return heads / kv_heads; }
  int columns() const { return (heads + 2 * kv_heads) * head_dim; }
};

inline double AsHalf(float value) { return HalfToFloat(FloatToHalf(value)); }

/// One sequence in a pool whose blocks are scattered and poisoned, with keys, values and labels of
/// `context` tokens, and its queries.
class Sequence {
 public:
  Sequence(const Shape& shape, uint32_t seed, float key_spread = 1)
      : shape(shape), backend(CreateCpuBackend({.threads = 2})) {
    std::mt19937 random(seed);
    const int used = (shape.context + shape.block_tokens - 1) / shape.block_tokens;
    kv = {{used + 3, shape.kv_heads, shape.block_tokens, shape.head_dim, shape.width}};
    memory = *backend->Allocate(kv.bytes());
    kv.data = memory->data();
    std::memset(kv.data, 0xff, kv.bytes());  // NaNs
    label_memory = *backend->Allocate(kv.label_bytes());
    kv.labels = label_memory->data();
    std::memset(kv.labels, 0xff, kv.label_bytes());
    kv.summary_slots = 2;
    summary_memory = *backend->Allocate(kv.summary_bytes());
    kv.summaries = reinterpret_cast<float*>(summary_memory->data());
    std::memset(summary_memory->data(), 0xff, summary_memory->bytes());
    table.resize(kv.blocks);
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), random);

    const int64_t matrix = int64_t{shape.kv_heads} * shape.head_dim * shape.width;
    key_basis = RandomFloats(matrix, random, 2.5f / std::sqrt(static_cast<float>(shape.head_dim)));
    query_basis = RandomFloats(matrix, random, 0.15f);
    offset = RandomFloats(int64_t{shape.kv_heads} * shape.width, random, 1);
    for (float& o : offset) o += 7.5f;
    attention.basis = {key_basis.data(), query_basis.data(), offset.data()};

    qkv = RandomFloats(int64_t{shape.context} * shape.columns(), random);
    for (int64_t i = 0; i < std::ssize(qkv); ++i) {
      const int column = static_cast<int>(i % shape.columns()) / shape.head_dim;
      if (column >= shape.heads && column < shape.heads + shape.kv_heads) qkv[i] *= key_spread;
    }
    tokens.assign(shape.context, 0);
    positions.resize(shape.context);
    std::iota(positions.begin(), positions.end(), 0);
    Store();
  }

  // Writes keys, values and labels of all tokens.
  void Store() {
    const std::vector<int32_t> begin{0, shape.context};
    const std::vector<float> frequencies(shape.head_dim / 2, 0.0f);  // no rotation
    const std::vector<int32_t> tables = BlockTables();
    const StepBatch batch{tokens, positions, begin, tables, static_cast<int32_t>(table.size()), {}};
    backend->BeginStep(batch);
    backend->RopeAndStoreKv(batch, View(qkv, shape.columns()), shape.heads, kv,
                            {RopePairing::kAdjacent, shape.head_dim, frequencies.data()},
                            attention.basis);
  }

  // Output [rows, heads, head_dim] of rows [first, first + count), with one selection for each;
  // what probes of all their heads find if wanted.
  std::vector<float> Attend(int first, const std::vector<Selection>& selections,
                            std::vector<ProbedMass>* probed = nullptr) {
    const int count = static_cast<int>(selections.size());
    const std::vector<int32_t> begin{0, count};
    std::vector<RecallProbe> probes;
    for (int row = 0; row < count; ++row) {
      for (int g = 0; g < shape.kv_heads; ++g) probes.push_back({row, 0, g});
    }
    const std::vector<int32_t> tables = BlockTables();
    const StepBatch batch{.tokens = std::span(tokens).subspan(first, count),
                          .positions = std::span(positions).subspan(first, count),
                          .query_begin = begin,
                          .block_tables = tables,
                          .max_blocks = static_cast<int32_t>(table.size()),
                          .logit_rows = {},
                          .selections = selections,
                          .recall_probes = probes,
                          .summaries = {&summary, 1}};
    const Tensor rows{qkv.data() + int64_t{first} * shape.columns(), count, shape.columns(),
                      shape.columns()};
    std::vector<float> out(int64_t{count} * shape.heads * shape.head_dim, NAN);
    backend->BeginStep(batch);
    backend->Attention(batch, rows, shape.heads, kv, attention,
                       View(out, int64_t{shape.heads} * shape.head_dim));
    if (probed != nullptr) {
      probed->resize(probes.size());
      backend->MeasureRecall(batch, rows, shape.heads, kv, attention, probes, probed->data());
    }
    return out;
  }

  // The tables of all groups up to the layer's; those of others lead elsewhere.
  std::vector<int32_t> BlockTables() const {
    std::vector<int32_t> tables;
    for (int group = 0; group < kv.group; ++group) {
      tables.insert(tables.end(), table.rbegin(), table.rend());
    }
    tables.insert(tables.end(), table.begin(), table.end());
    return tables;
  }

  double Query(int position, int head, int c) const {
    return qkv[int64_t{position} * shape.columns() + head * shape.head_dim + c];
  }
  double Key(int position, int kv_head, int c) const {
    return AsHalf(static_cast<float>(Query(position, shape.heads + kv_head, c)));
  }
  double Value(int position, int kv_head, int c) const {
    return AsHalf(static_cast<float>(Query(position, shape.heads + shape.kv_heads + kv_head, c)));
  }

  // The code as it is stored.
  int Code(int position, int kv_head, int i) const {
    const uint8_t* labels = kv.head_labels(table[position / shape.block_tokens], kv_head);
    const uint8_t byte =
        labels[cpu::LabelOffset(position % shape.block_tokens, shape.width) + i / 8 * 64 + i % 4];
    return i % 8 < 4 ? byte & 15 : byte >> 4;
  }

  double ExactScore(int position, int head, int j) const {
    double dot = 0;
    for (int c = 0; c < shape.head_dim; ++c) {
      dot += Query(position, head, c) * Key(j, head / shape.group(), c);
    }
    const double cap = attention.soft_cap;
    return cap > 0 ? cap * std::tanh(Scale() * dot / cap) : Scale() * dot;
  }

  double Scale() const {
    return attention.scale != 0 ? attention.scale : 1 / std::sqrt(shape.head_dim);
  }

  // Scores of all tokens up to `position`, exact or from the stored labels with a query of 8 bits.
  std::vector<double> Scores(int position, int head, bool exact) const {
    std::vector<double> scores(position + 1);
    const int g = head / shape.group();
    std::vector<double> w(shape.width, 0.0);
    for (int i = 0; i < shape.width; ++i) {
      for (int c = 0; c < shape.head_dim; ++c) {
        w[i] += Query(position, head, c) *
                query_basis[(int64_t{g} * shape.head_dim + c) * shape.width + i];
      }
    }
    double largest = 0;
    for (const double x : w) largest = std::max(largest, std::abs(x));
    for (double& x : w) x = std::round(x / largest * 127) * largest / 127;
    for (int j = 0; j <= position; ++j) {
      if (exact) {
        scores[j] = ExactScore(position, head, j);
      } else {
        for (int i = 0; i < shape.width; ++i) scores[j] += w[i] * Code(j, g, i);
        scores[j] *= Scale();
      }
    }
    return scores;
  }

  static std::vector<double> Softmax(std::vector<double> scores) {
    const double max = *std::ranges::max_element(scores);
    double sum = 0;
    for (double& score : scores) sum += score = std::exp(score - max);
    for (double& score : scores) score /= sum;
    return scores;
  }

  // What a KV head selects, and by which factor the last chosen token beats the best left out.
  std::vector<int> Select(int position, int kv_head, const Selection& selection,
                          double* margin) const {
    const int context = position + 1;
    const int budget = BudgetTokens(selection, attention, kv_head, context);
    std::vector<int> order(context);
    std::iota(order.begin(), order.end(), 0);
    *margin = std::numeric_limits<double>::infinity();
    if (budget == context) return order;
    std::vector<double> weight(context, 0.0);
    if (selection.kind == SelectionKind::kWindow) {
      for (int j = 0; j < context; ++j) weight[j] = j;
    } else {
      for (int h = 0; h < shape.group(); ++h) {
        const auto p = Softmax(Scores(position, kv_head * shape.group() + h,
                                      selection.kind == SelectionKind::kScores));
        for (int j = 0; j < context; ++j) weight[j] += p[j];
      }
    }
    for (int j = 0; j < context; ++j) {
      if (j < attention.sinks || j >= context - attention.window) weight[j] = INFINITY;
    }
    std::ranges::stable_sort(order, [&](int a, int b) { return weight[a] > weight[b]; });
    if (selection.kind != SelectionKind::kWindow && std::isfinite(weight[order[budget - 1]])) {
      *margin = weight[order[budget - 1]] / weight[order[budget]];
    }
    order.resize(budget);
    std::ranges::sort(order);
    return order;
  }

  // Compares one row's output, where the selection is not a matter of rounding; returns how many KV
  // heads were compared.
  int Check(int position, const Selection& selection, const float* out, const ProbedMass* probed) {
    int compared = 0;
    for (int g = 0; g < shape.kv_heads; ++g) {
      double margin;
      const std::vector<int> chosen = Select(position, g, selection, &margin);
      if (margin < 1.002) continue;
      ++compared;
      double recall = 0;
      for (int h = g * shape.group(); h < (g + 1) * shape.group(); ++h) {
        std::vector<double> scores(chosen.size());
        for (size_t i = 0; i < chosen.size(); ++i) scores[i] = ExactScore(position, h, chosen[i]);
        const auto p = Softmax(scores);
        for (int c = 0; c < shape.head_dim; ++c) {
          double want = 0;
          for (size_t i = 0; i < chosen.size(); ++i) want += p[i] * Value(chosen[i], g, c);
          EXPECT_NEAR(out[h * shape.head_dim + c], want, 3e-5)
              << "position " << position << " head " << h << " dim " << c;
        }
        const auto all = Softmax(Scores(position, h, true));
        for (const int j : chosen) recall += all[j] / shape.group();
      }
      EXPECT_NEAR(probed[g].recall, recall, 5e-4);
    }
    return compared;
  }

  Shape shape;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Buffer> memory;
  std::unique_ptr<Buffer> label_memory;
  std::unique_ptr<Buffer> summary_memory;
  KvView kv;
  LayerAttention attention;
  SummarySlot summary;  ///< none, until a test sets it
  std::vector<int32_t> table;
  std::vector<float> key_basis, query_basis, offset;
  std::vector<float> qkv;
  std::vector<int32_t> tokens, positions;
};

}  // namespace winnow::test

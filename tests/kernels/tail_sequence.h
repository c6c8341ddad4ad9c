#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/paged_sequence.h"

namespace winnow::test {

using Matrix64 = std::vector<std::vector<double>>;

/// Solves a x = b by Gaussian elimination with pivots.
inline Matrix64 Solve(Matrix64 a, Matrix64 b) {
  const size_t n = a.size();
  for (size_t i = 0; i < n; ++i) {
    size_t pivot = i;
    for (size_t row = i; row < n; ++row) {
      if (std::abs(a[row][i]) > std::abs(a[pivot][i])) pivot = row;
    }
    std::swap(a[i], a[pivot]);
    std::swap(b[i], b[pivot]);
    for (size_t row = 0; row < n; ++row) {
      if (row == i) continue;
      const double factor = a[row][i] / a[i][i];
      for (size_t c = 0; c < n; ++c) a[row][c] -= factor * a[i][c];
      for (size_t c = 0; c < b[i].size(); ++c) b[row][c] -= factor * b[i][c];
    }
  }
  for (size_t i = 0; i < n; ++i) {
    for (double& x : b[i]) x /= a[i][i];
  }
  return b;
}

/// A sequence whose values and keys are partly what its labels say, and that has a summary.
class TailSequence : public Sequence {
 public:
  TailSequence(const Shape& shape, uint32_t seed, float tail = 1) : Sequence(shape, seed) {
    weights.assign(static_cast<size_t>(shape.kv_heads), tail);
    attention.tail_weights = weights.data();
    summary.slot = 1;
    std::mt19937 random(seed + 1);
    const auto slopes = RandomFloats(int64_t{shape.width} * shape.head_dim, random, 0.2f);
    for (int t = 0; t < shape.context; ++t) {
      for (int g = 0; g < shape.kv_heads; ++g) {
        float* key = &qkv[int64_t{t} * shape.columns() + (shape.heads + g) * shape.head_dim];
        float* value = key + shape.kv_heads * shape.head_dim;
        for (int c = 0; c < shape.head_dim; ++c) key[c] += 0.3f;
        for (int i = 0; i < shape.width; ++i) {
          const auto code = static_cast<float>(Code(t, g, i));
          for (int c = 0; c < shape.head_dim; ++c)
            value[c] += slopes[i * shape.head_dim + c] * code;
        }
      }
    }
    Store();
  }

  /// Attends with a summary that has been made for the row alone.
  std::vector<float> AttendAnew(int position, const Selection& selection,
                                std::vector<ProbedMass>* probed = nullptr) {
    summary.tokens = 0;
    return Attend(position, {selection}, probed);
  }

  std::vector<float> weights;  ///< LayerAttention::tail_weights
  /// Of outputs, which are up to 20: the CPU's means of codes are by weights of 7 bits
  /// (label_sums_test.cc).
  double tolerance = 0.04;
  double relative_tolerance = 0;
  /// Heads whose selection is decided by less are not compared. Of many tokens any of those that
  /// are about the last ones chosen may be: they weigh little.
  double least_margin = 1.002;

  struct Summary {
    std::vector<double> code, value, key;  // means
    Matrix64 slopes;
  };

  Summary Summarise(int tokens, int g) const {
    const auto width = static_cast<size_t>(shape.width);
    const auto dim = static_cast<size_t>(shape.head_dim);
    Summary of{std::vector<double>(width), std::vector<double>(dim), std::vector<double>(dim), {}};
    const double count = tokens - attention.sinks;
    for (int t = attention.sinks; t < tokens; ++t) {
      for (size_t i = 0; i < width; ++i) of.code[i] += Code(t, g, static_cast<int>(i)) / count;
      for (size_t c = 0; c < dim; ++c) {
        of.value[c] += Value(t, g, static_cast<int>(c)) / count;
        of.key[c] += Key(t, g, static_cast<int>(c)) / count;
      }
    }
    Matrix64 codes(width, std::vector<double>(width)), values(width, std::vector<double>(dim));
    for (int t = attention.sinks; t < tokens; ++t) {
      for (size_t i = 0; i < width; ++i) {
        const double above = Code(t, g, static_cast<int>(i)) - of.code[i];
        for (size_t j = 0; j < width; ++j) {
          codes[i][j] += above * (Code(t, g, static_cast<int>(j)) - of.code[j]) / count;
        }
        for (size_t c = 0; c < dim; ++c) {
          values[i][c] += above * (Value(t, g, static_cast<int>(c)) - of.value[c]) / count;
        }
      }
    }
    double trace = 0;
    for (size_t i = 0; i < width; ++i) trace += codes[i][i];
    for (size_t i = 0; i < width; ++i) codes[i][i] += 0.01 * trace / shape.width;
    of.slopes = Solve(codes, values);
    return of;
  }

  /// Compares a row's output, and what probes of its KV heads found if given, where the selection
  /// is no matter of rounding. Returns how many KV heads were compared.
  int CheckTail(int position, const Selection& selection, const float* out,
                const ProbedMass* probed = nullptr) const {
    int compared = 0;
    for (int g = 0; g < shape.kv_heads; ++g) {
      double margin;
      const std::vector<int> chosen = Select(position, g, selection, &margin);
      if (margin < least_margin) continue;
      ++compared;
      const Summary of = Summarise(position / 64 * 64, g);
      double estimated = 0;
      for (int h = g * shape.group(); h < (g + 1) * shape.group(); ++h) {
        estimated += CheckHead(position, h, chosen, of, out + h * shape.head_dim) / shape.group();
      }
      if (probed != nullptr) {
        EXPECT_NEAR(probed[g].estimated, estimated, 1e-2) << g;
      }
    }
    return compared;
  }

 private:
  // Returns what the tail has of the head's softmax.
  double CheckHead(int position, int h, const std::vector<int>& chosen, const Summary& of,
                   const float* out) const {
    const int g = h / shape.group();
    const std::vector<double> by_labels = Scores(position, h, false);
    double of_mean_key = 0;
    for (int c = 0; c < shape.head_dim; ++c) {
      of_mean_key += Scale() * Query(position, h, c) * of.key[static_cast<size_t>(c)];
    }
    // The mean over the summarised tokens of what is linear in the codes.
    double of_mean_label = 0;
    const int tokens = position / 64 * 64;
    for (int t = attention.sinks; t < tokens; ++t) {
      of_mean_label += by_labels[static_cast<size_t>(t)] / (tokens - attention.sinks);
    }
    double tail = 0;
    double sampled = 0;
    std::vector<double> code(of.code.size());
    for (int j = 0; j <= position; ++j) {
      if (std::ranges::binary_search(chosen, j)) continue;
      const double weight =
          weights[static_cast<size_t>(g)] *
          std::exp(by_labels[static_cast<size_t>(j)] + of_mean_key - of_mean_label);
      tail += weight;
      if (j % 128 >= 32) continue;  // means of codes are of a sample
      sampled += weight;
      for (size_t i = 0; i < code.size(); ++i) {
        code[i] += weight * Code(j, g, static_cast<int>(i));
      }
    }
    for (size_t i = 0; i < code.size() && sampled == 0; ++i) code[i] = of.code[i];
    if (sampled == 0) sampled = 1;
    double sum = tail;
    std::vector<double> want(static_cast<size_t>(shape.head_dim));
    for (size_t c = 0; c < want.size(); ++c) {
      want[c] = of.value[c];
      for (size_t i = 0; i < code.size(); ++i) {
        want[c] += (code[i] / sampled - of.code[i]) * of.slopes[i][c];
      }
      want[c] *= tail;
    }
    for (const int j : chosen) {
      const double weight = std::exp(ExactScore(position, h, j));
      sum += weight;
      for (size_t c = 0; c < want.size(); ++c) want[c] += weight * Value(j, g, static_cast<int>(c));
    }
    for (size_t c = 0; c < want.size(); ++c) {
      const double value = want[c] / sum;
      EXPECT_NEAR(out[c], value, tolerance + relative_tolerance * std::abs(value))
          << "position " << position << " head " << h << " dim " << c;
    }
    return tail / sum;
  }
};

}  // namespace winnow::test

#include "engine/eval/label_choice.h"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

namespace winnow {
namespace {

using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

std::vector<float> ToHost(const float* device, int64_t count, Backend& backend) {
  std::vector<float> host(static_cast<size_t>(count));
  backend.Copy(reinterpret_cast<std::byte*>(host.data()),
               reinterpret_cast<const std::byte*>(device),
               count * static_cast<int64_t>(sizeof(float)));
  return host;
}

// x^T m with m [head_dim, width].
Eigen::VectorXf Project(const float* x, const std::vector<float>& m, int head_dim, int width) {
  const Eigen::Map<const RowMajor> matrix(m.data(), head_dim, width);
  return matrix.transpose() * Eigen::Map<const Eigen::VectorXf>(x, head_dim);
}

// Rounds to multiples of 1 / 127 of the largest, as the query's side of scores is.
void RoundToBytes(Eigen::VectorXf& query) {
  const float largest = query.cwiseAbs().maxCoeff();
  if (largest > 0) query = (query * (127 / largest)).array().rint() * (largest / 127);
}

}  // namespace

LabelChoice::LabelChoice(const LayerSelection& selection, const KvShape& shape, int heads,
                         Backend& backend)
    : attention_(selection.attention()),
      head_dim_(shape.head_dim),
      width_(selection.label_width()),
      group_(heads / shape.kv_heads) {
  const int64_t matrix = int64_t{head_dim_} * width_;
  for (int g = 0; g < shape.kv_heads; ++g) {
    heads_.push_back({.key = ToHost(attention_.basis.key + g * matrix, matrix, backend),
                      .query = ToHost(attention_.basis.query + g * matrix, matrix, backend),
                      .offset = ToHost(attention_.basis.offset + g * width_, width_, backend)});
  }
}

void LabelChoice::AddToken(std::span<const float> keys) {
  for (size_t g = 0; g < heads_.size(); ++g) {
    AddCodes(keys.data() + g * static_cast<size_t>(head_dim_), heads_[g]);
  }
}

void LabelChoice::AddCodes(const float* key, Head& head) const {
  const Eigen::VectorXf label = Project(key, head.key, head_dim_, width_);
  for (int i = 0; i < width_; ++i) {
    const float code = std::nearbyint(label[i] + head.offset[static_cast<size_t>(i)]);
    head.codes.push_back(std::clamp(code, 0.0f, 15.0f));
  }
}

int LabelChoice::CountChosen(const Selection& selection, int kv_head, int context) const {
  const int budget = BudgetTokens(selection, attention_, kv_head, context);
  return budget == context ? 0 : budget - attention_.sinks - attention_.window;
}

std::span<const float> LabelChoice::Weigh(int kv_head, std::span<const float> queries, int tokens) {
  const Head& head = heads_[static_cast<size_t>(kv_head)];
  const Eigen::Map<const RowMajor> codes(head.codes.data(), tokens, width_);
  weights_.assign(static_cast<size_t>(tokens), 0);
  Eigen::Map<Eigen::ArrayXf> weights(weights_.data(), tokens);
  const float scale = ScoreScale(attention_, head_dim_);
  for (int h = kv_head * group_; h < (kv_head + 1) * group_; ++h) {
    Eigen::VectorXf query =
        Project(queries.data() + int64_t{h} * head_dim_, head.query, head_dim_, width_);
    RoundToBytes(query);
    Eigen::ArrayXf of_head = codes * (query * scale);
    of_head = (of_head - of_head.maxCoeff()).exp();
    weights += of_head / (of_head.sum() * static_cast<float>(group_));
  }
  return weights_;
}

std::vector<int32_t> LargestWeights(std::span<const float> weights, int first,
                                    std::span<const int> counts) {
  std::vector<int32_t> positions(weights.size() - static_cast<size_t>(first));
  std::iota(positions.begin(), positions.end(), first);
  auto end = positions.end();
  for (auto count = counts.rbegin(); count != counts.rend(); ++count) {
    const auto middle = positions.begin() + *count;
    if (middle < end) {
      std::nth_element(positions.begin(), middle, end, [&](int32_t a, int32_t b) {
        const float of_a = weights[static_cast<size_t>(a)];
        const float of_b = weights[static_cast<size_t>(b)];
        return of_a != of_b ? of_a > of_b : a < b;
      });
    }
    end = middle;
  }
  positions.resize(counts.empty() ? 0 : static_cast<size_t>(counts.back()));
  return positions;
}

}  // namespace winnow

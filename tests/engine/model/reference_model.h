#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/config.h"
#include "engine/model/gguf.h"

namespace winnow::test {

/// [rows][columns].
using Matrix64 = std::vector<std::vector<double>>;

/// The forward pass of a decoder in float64, as its equations say, from a file whose tensors it
/// reads by their names: what modules are compared with. One sequence, from position 0.
class ReferenceModel {
 public:
  ReferenceModel(const GgufFile& file, const ModelConfig& config) : file_(file), config_(config) {}

  /// A tensor's numbers; a vector as one row, stacked matrices below one another.
  Matrix64 Weights(const std::string& name) const {
    const GgufFile::Tensor& tensor = *file_.FindTensor(name);
    const int64_t columns = tensor.shape.back();
    int64_t rows = 1;
    for (size_t i = 0; i + 1 < tensor.shape.size(); ++i) rows *= tensor.shape[i];
    std::vector<float> row(static_cast<size_t>(columns));
    Matrix64 weights;
    for (int64_t r = 0; r < rows; ++r) {
      Dequantize(tensor.type, tensor.data.data() + r * RowBytes(tensor.type, columns), columns,
                 row.data());
      weights.emplace_back(row.begin(), row.end());
    }
    return weights;
  }

  /// x Wᵀ, and the bias of that name if the file has one.
  Matrix64 Product(const Matrix64& x, const std::string& name, const std::string& bias = "") const {
    const Matrix64 weights = Weights(name);
    Matrix64 out;
    for (const std::vector<double>& row : x) {
      std::vector<double>& sums = out.emplace_back(weights.size());
      for (size_t n = 0; n < weights.size(); ++n) {
        for (size_t k = 0; k < row.size(); ++k) sums[n] += row[k] * weights[n][k];
      }
    }
    if (file_.FindTensor(bias) != nullptr) {
      const std::vector<double> values = Weights(bias)[0];
      for (std::vector<double>& row : out) Add(values, &row);
    }
    return out;
  }

  Matrix64 Normed(Matrix64 x, const std::string& name) const {
    const std::vector<double> weights = Weights(name)[0];
    for (std::vector<double>& row : x) {
      double squares = 0;
      for (const double value : row) squares += value * value;
      const double scale =
          1 / std::sqrt(squares / static_cast<double>(row.size()) + config_.norm_epsilon);
      for (size_t c = 0; c < row.size(); ++c) row[c] *= scale * weights[c];
    }
    return x;
  }

  /// Queries, keys and values of a layer, normed if the model has it and rotated: [rows][(heads +
  /// 2 kv_heads) head_dim].
  Matrix64 Qkv(const Matrix64& x, int layer) const {
    const std::string prefix = Prefix(layer) + "attn_";
    const Matrix64 normed = Normed(x, prefix + "norm.weight");
    const Matrix64 products =
        Stacked(normed, {prefix + "q", prefix + "k", prefix + "v"}, prefix + "qkv");
    Matrix64 qkv;
    for (size_t t = 0; t < x.size(); ++t) {
      const auto keys = products[t].begin() + config_.heads * config_.head_dim;
      const auto values = keys + config_.kv_heads * config_.head_dim;
      std::vector<double>& row = qkv.emplace_back(products[t].begin(), keys);
      std::vector<double> of_keys(keys, values);
      NormHeads(prefix + "q_norm.weight", &row);
      NormHeads(prefix + "k_norm.weight", &of_keys);
      row.insert(row.end(), of_keys.begin(), of_keys.end());
      Rotate(RopeOf(layer), static_cast<double>(t), &row);
      row.insert(row.end(), values, products[t].end());
    }
    return qkv;
  }

  /// The softmax weights of a query head of row `t` of a layer, [t + 1]: over the positions of its
  /// window of which `selected` says true, 0 elsewhere.
  template <typename Selected>
  std::vector<double> AttentionWeights(const Matrix64& qkv, int layer, size_t t, int head,
                                       const Selected& selected) const {
    const auto window = static_cast<size_t>(LayerOf(layer).sliding_window);
    const size_t q = Column(head);
    const size_t k = Column(config_.heads + KvHead(head));
    std::vector<double> weights(t + 1);
    double sum = 0;
    for (size_t j = 0; j <= t; ++j) {
      if (!selected(t, j) || (window > 0 && t - j >= window)) continue;
      double score = 0;
      for (size_t c = 0; c < HeadDim(); ++c) score += qkv[t][q + c] * qkv[j][k + c];
      score *= config_.attention_scale != 0 ? config_.attention_scale
                                            : 1 / std::sqrt(static_cast<double>(config_.head_dim));
      sum += weights[j] = std::exp(Capped(score, config_.attention_soft_cap));
    }
    for (double& weight : weights) weight /= sum;
    return weights;
  }

  /// x and what the attention of a layer adds to it. `selected(t, j)`: row t attends to position j.
  template <typename Selected>
  Matrix64 AfterAttention(Matrix64 x, int layer, const Selected& selected) const {
    const Matrix64 qkv = Qkv(x, layer);
    Matrix64 attended(x.size(), std::vector<double>(HeadDim() * Heads()));
    for (size_t t = 0; t < x.size(); ++t) {
      for (int head = 0; head < config_.heads; ++head) {
        const size_t v = Column(config_.heads + config_.kv_heads + KvHead(head));
        const std::vector<double> weights = AttentionWeights(qkv, layer, t, head, selected);
        for (size_t j = 0; j <= t; ++j) {
          for (size_t c = 0; c < HeadDim(); ++c) {
            attended[t][Column(head) + c] += weights[j] * qkv[j][v + c];
          }
        }
      }
    }
    AddOutput(Product(attended, Prefix(layer) + "attn_output.weight"),
              Prefix(layer) + "post_attention_norm.weight", &x);
    return x;
  }

  /// x and what the experts of a layer add to it: of the softmax of the router's logits the
  /// largest, lower experts before equal ones.
  Matrix64 AfterExperts(Matrix64 x, int layer) const {
    const std::string prefix = Prefix(layer) + "ffn_";
    const Matrix64 normed = Normed(x, prefix + "norm.weight");
    const Matrix64 logits = Product(normed, prefix + "gate_inp.weight");
    const Matrix64 gate = Product(normed, prefix + "gate_exps.weight");
    const Matrix64 up = Product(normed, prefix + "up_exps.weight");
    const Matrix64 down = Weights(prefix + "down_exps.weight");
    const auto ffn = static_cast<size_t>(config_.mixture.ffn);
    for (size_t t = 0; t < x.size(); ++t) {
      std::vector<size_t> order(logits[t].size());
      std::iota(order.begin(), order.end(), size_t{0});
      std::ranges::stable_sort(order, std::ranges::greater(),
                               [&](size_t e) { return logits[t][e]; });
      double all = 0;
      for (const double logit : logits[t]) all += std::exp(logit);
      order.resize(static_cast<size_t>(config_.mixture.chosen));
      double kept = 0;
      for (const size_t e : order) kept += std::exp(logits[t][e]) / all;
      for (const size_t e : order) {
        const double weight =
            std::exp(logits[t][e]) / all / (config_.mixture.normalizes ? kept : 1);
        for (size_t c = 0; c < x[t].size(); ++c) {
          for (size_t k = 0; k < ffn; ++k) {
            const double g = gate[t][e * ffn + k];
            x[t][c] +=
                weight * g / (1 + std::exp(-g)) * up[t][e * ffn + k] * down[e * x[t].size() + c][k];
          }
        }
      }
    }
    return x;
  }

  /// x and what the feed-forward network of a layer adds to it.
  Matrix64 AfterFeedForward(Matrix64 x, int layer) const {
    if (config_.mixture.experts > 0) return AfterExperts(std::move(x), layer);
    const std::string prefix = Prefix(layer) + "ffn_";
    const Matrix64 normed = Normed(x, prefix + "norm.weight");
    Matrix64 gated = Stacked(normed, {prefix + "gate", prefix + "up"}, prefix + "up");
    for (std::vector<double>& row : gated) {
      const size_t ffn = row.size() / 2;
      for (size_t c = 0; c < ffn; ++c) row[c] = Activated(row[c]) * row[ffn + c];
      row.resize(ffn);
    }
    AddOutput(Product(gated, prefix + "down.weight"), Prefix(layer) + "post_ffw_norm.weight", &x);
    return x;
  }

  /// The residual stream before the first layer.
  Matrix64 Embedded(const std::vector<int32_t>& tokens) const {
    const Matrix64 table = Weights("token_embd.weight");
    Matrix64 x;
    for (const int32_t token : tokens) {
      for (double& value : x.emplace_back(table[static_cast<size_t>(token)])) {
        value *= config_.embedding_scale;
      }
    }
    return x;
  }

  /// Logits of every token, dense: [tokens][vocab].
  Matrix64 Logits(const std::vector<int32_t>& tokens) const {
    Matrix64 x = Embedded(tokens);
    for (int layer = 0; layer < config_.layers; ++layer) {
      x = AfterAttention(std::move(x), layer, [](size_t, size_t) { return true; });
      x = AfterFeedForward(std::move(x), layer);
    }
    const bool tied = file_.FindTensor("output.weight") == nullptr;
    Matrix64 logits = Product(Normed(std::move(x), "output_norm.weight"),
                              tied ? "token_embd.weight" : "output.weight");
    for (std::vector<double>& row : logits) {
      for (double& logit : row) logit = Capped(logit, config_.logit_soft_cap);
    }
    return logits;
  }

 private:
  static std::string Prefix(int layer) { return "blk." + std::to_string(layer) + "."; }

  static void Add(const std::vector<double>& values, std::vector<double>* row) {
    for (size_t c = 0; c < values.size(); ++c) (*row)[c] += values[c];
  }

  static double Capped(double x, double cap) { return cap > 0 ? cap * std::tanh(x / cap) : x; }

  double Activated(double x) const {
    if (config_.activation == Activation::kSilu) return x / (1 + std::exp(-x));
    const double root = std::sqrt(2 / std::acos(-1.0));
    return x / 2 * (1 + std::tanh(root * (x + 0.044715 * x * x * x)));
  }

  /// Products with matrices of these names side by side, or with one that holds them all.
  Matrix64 Stacked(const Matrix64& x, const std::vector<std::string>& names,
                   const std::string& fused) const {
    const bool is_fused = file_.FindTensor(names[0] + ".weight") == nullptr;
    Matrix64 stacked(x.size());
    for (const std::string& name : is_fused ? std::vector<std::string>{fused} : names) {
      const Matrix64 product = Product(x, name + ".weight", name + ".bias");
      for (size_t t = 0; t < x.size(); ++t) {
        stacked[t].insert(stacked[t].end(), product[t].begin(), product[t].end());
      }
    }
    return stacked;
  }

  /// Adds what a module has computed, behind the norm of that name if the file has one.
  void AddOutput(Matrix64 out, const std::string& norm, Matrix64* x) const {
    if (file_.FindTensor(norm) != nullptr) out = Normed(std::move(out), norm);
    for (size_t t = 0; t < x->size(); ++t) Add(out[t], &(*x)[t]);
  }

  /// Norms each head of a row, if the file has weights of that name.
  void NormHeads(const std::string& name, std::vector<double>* row) const {
    if (file_.FindTensor(name) == nullptr) return;
    for (auto head = row->begin(); head != row->end(); head += config_.head_dim) {
      const Matrix64 normed = Normed({std::vector<double>(head, head + config_.head_dim)}, name);
      std::copy(normed[0].begin(), normed[0].end(), head);
    }
  }

  /// Turns each pair of the first dimensions of every head.
  void Rotate(const RopeConfig& rope, double position, std::vector<double>* row) const {
    const auto pairs = static_cast<size_t>(rope.dim / 2);
    for (size_t head = 0; head < row->size(); head += HeadDim()) {
      for (size_t i = 0; i < pairs; ++i) {
        const bool adjacent = rope.pairing == RopePairing::kAdjacent;
        double& a = (*row)[head + (adjacent ? 2 * i : i)];
        double& b = (*row)[head + (adjacent ? 2 * i + 1 : i + pairs)];
        const double angle = position * rope.frequencies[i];
        const double cosine = rope.magnitude * std::cos(angle);
        const double sine = rope.magnitude * std::sin(angle);
        const double turned = a * cosine - b * sine;
        b = a * sine + b * cosine;
        a = turned;
      }
    }
  }

  const LayerConfig& LayerOf(int layer) const { return config_.layer[static_cast<size_t>(layer)]; }
  const RopeConfig& RopeOf(int layer) const {
    return config_.ropes[static_cast<size_t>(LayerOf(layer).rope)];
  }
  size_t HeadDim() const { return static_cast<size_t>(config_.head_dim); }
  size_t Heads() const { return static_cast<size_t>(config_.heads); }
  size_t Column(int head) const { return static_cast<size_t>(head) * HeadDim(); }
  int KvHead(int head) const { return head * config_.kv_heads / config_.heads; }

  const GgufFile& file_;
  const ModelConfig& config_;
};

}  // namespace winnow::test

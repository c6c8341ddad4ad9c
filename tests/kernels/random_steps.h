#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/step_batch_builder.h"
#include "tests/kernels/reference.h"

namespace winnow::test {

/// Steps of random rows on a backend, through all operators that are called while a model serves:
/// prompts, decoding rows of every kind, rows that are computed again, measured recall, choices.
class RandomSteps {
 public:
  static constexpr int kRows = 80;
  static constexpr int kSequences = 10;
  static constexpr int kContext = 1900;
  static constexpr int kLogitRows = 16;
  static constexpr int kVocab = 700;

  explicit RandomSteps(Backend& backend) : backend_(backend) {
    std::iota(own_blocks_.begin(), own_blocks_.end(), 0);
    for (const KvShape& shape : kLayers) {
      KvView& kv = kv_.emplace_back(KvView{shape});
      kv.data = Take(shape.bytes());
      if (shape.label_width > 0) kv.labels = Take(shape.label_bytes());
      if (shape.summary_slots > 0) {
        kv.summaries = reinterpret_cast<float*>(Take(shape.summary_bytes()));
      }
      LayerAttention& attention = attentions_.emplace_back();
      attention.min_context = 200;
      if (shape.label_width > 0) {
        const int64_t basis = int64_t{shape.kv_heads} * shape.head_dim * shape.label_width;
        attention.basis.key = Random(basis);
        attention.basis.query = Random(basis);
        attention.basis.offset = Random(int64_t{shape.kv_heads} * shape.label_width);
        attention.budget_weights = weights_.data();
        attention.tail_weights = weights_.data();
      }
      qkv_columns_ =
          std::max<int64_t>(qkv_columns_, int64_t{kHeads + 2 * shape.kv_heads} * shape.head_dim);
    }
    qkv_ = Take(kRows * qkv_columns_ * 4);
    activations_ = Take(kRows * kColumns * 4);
    out_ = Take(kRows * kColumns * 4);
    logits_ = Take(int64_t{kLogitRows} * kVocab * 4);
    norm_ = Random(kColumns);
    std::mt19937 random(1);
    std::vector<std::vector<std::byte>> experts;
    std::vector<HostMatrix> expert_parts;
    for (int e = 0; e < kExperts; ++e) {
      const DataType type = e % 2 == 0 ? DataType::kQ8_0 : DataType::kBF16;
      experts.push_back(RandomWeights(type, kExpertOutputs, kColumns, random));
      expert_parts.push_back({type, kExpertOutputs, kColumns, experts.back()});
    }
    expert_matrix_ = *backend.LoadMatrix(expert_parts);
    constexpr int64_t kPairs = int64_t{kRows} * kChosen;
    routes_ = {.experts = kExperts,
               .chosen = kChosen,
               .ids = reinterpret_cast<int32_t*>(Take(kPairs * 4)),
               .weights = reinterpret_cast<float*>(Take(kPairs * 4)),
               .pairs = reinterpret_cast<int32_t*>(Take(kPairs * 4)),
               .groups = reinterpret_cast<ExpertGroup*>(Take(kExperts * sizeof(ExpertGroup))),
               .expert_reads = reinterpret_cast<int64_t*>(Take(8))};
    expert_out_ = Take(kPairs * kExpertOutputs * 4);
    const auto first = RandomWeights(DataType::kQ4_0, kColumns / 2, kColumns, random);
    const auto second = RandomWeights(DataType::kQ6_K, kColumns / 2, kColumns, random);
    const HostMatrix parts[] = {{DataType::kQ4_0, kColumns / 2, kColumns, first},
                                {DataType::kQ6_K, kColumns / 2, kColumns, second}};
    matrix_ = *backend.LoadMatrix(parts);
    table_floats_ = RandomFloats(kVocab * kColumns, random);
    table_ = *backend.LoadEmbedding(
        {DataType::kF32, kVocab, kColumns, std::as_bytes(std::span(table_floats_))});
    std::array<float, 64> frequencies;
    for (int i = 0; i < 64; ++i) frequencies[i] = std::pow(10000.0f, -i / 64.0f);
    std::byte* const frequency = Take(sizeof(frequencies));
    backend.Copy(frequency, reinterpret_cast<const std::byte*>(frequencies.data()),
                 sizeof(frequencies));
    for (const KvShape& shape : kLayers) {
      ropes_.push_back(
          {RopePairing::kHalves, shape.head_dim, reinterpret_cast<const float*>(frequency)});
    }
  }

  /// What no step exceeds; valid as long as this object.
  StepLimits limits() const {
    return {.rows = kRows,
            .sequences = kSequences,
            .context = kContext,
            .logit_rows = kLogitRows,
            .heads = kHeads,
            .layers = kLayers,
            .ropes = ropes_,
            .columns = kColumns,
            .experts = kExperts,
            .chosen_experts = kChosen,
            .vocab = kVocab};
  }

  /// Lays out the next step, one of the largest that there are or any.
  void Prepare(std::mt19937& random, bool largest) {
    random_qkv_ = RandomFloats(kRows * qkv_columns_, random);
    builder_.Clear();
    const auto up_to = [&](int most) {
      return largest ? most : 1 + static_cast<int>(random() % most);
    };
    const int sequences = up_to(kSequences);
    int left = kRows;
    // No two rows write to one place.
    std::ranges::shuffle(own_blocks_, random);
    size_t used = 0;
    for (auto& probes : probes_) probes.clear();
    for (int s = 0; s < sequences; ++s) {
      const int most = left - (sequences - 1 - s);
      // Most decode. The last may be a prompt, or what is computed again, of any length.
      const int rows = s + 1 < sequences && random() % 4 != 0 ? 1 : std::min(most, up_to(kRows));
      const int context = std::max(rows, up_to(kContext));
      left -= rows;
      std::vector<int32_t> blocks((context + kBlockTokens - 1) / kBlockTokens);
      for (int32_t& block : blocks) block = static_cast<int32_t>(random() % kBlocks);
      const auto written = static_cast<size_t>((context - rows) / kBlockTokens);
      for (size_t i = written; i < blocks.size(); ++i) blocks[i] = own_blocks_[used++];
      builder_.BeginSequence(blocks, RandomSummary(random, s, context - rows));
      const bool is_prompt = random() % 3 == 0;
      for (int i = 0; i < rows; ++i) {
        const int32_t row = builder_.AddRow(
            static_cast<int32_t>(random() % kVocab), context - rows + i,
            is_prompt ? Selection{} : RandomSelection(random), /*wants_logits=*/false);
        if (random() % 4 != 0) continue;
        for (int l = 0; l < std::ssize(kLayers); ++l) {
          probes_[l].push_back({row, l, static_cast<int32_t>(random() % kLayers[l].kv_heads)});
        }
      }
    }
    batch_ = builder_.Build();
    probed_.resize(kRows);
    choices_.clear();
    edits_.clear();
    for (int i = 0; i < up_to(3 * kLogitRows); ++i) edits_.push_back(RandomEdits(random, largest));
    for (size_t i = 0; i < edits_.size(); ++i) {
      choices_.push_back({.row = static_cast<int32_t>(i / 3),
                          .edits = edits_[i],
                          .temperature = random() % 3 == 0 ? 0.0f : 1.0f,
                          .top_k = static_cast<int32_t>(random() % 3 == 0 ? 40 : 0),
                          .top_p = random() % 3 == 0 ? 0.9f : 1.0f,
                          .uniform = 0.5});
    }
    tokens_.resize(choices_.size());
  }

  /// Computes the step that was laid out.
  void Run() {
    backend_.BeginStep(batch_);
    const int64_t rows = batch_.rows();
    const DataType type = backend_.activation_type();
    const Tensor embedded{out_, rows, kColumns, kColumns};
    const Tensor normed{activations_, rows, kColumns, kColumns, type};
    backend_.Embed(batch_, *table_, 1, embedded);
    backend_.RmsNorm(embedded, norm_, 1e-5f, normed);
    backend_.MatMul(normed, *matrix_, nullptr, /*accumulate=*/true, embedded);
    RunExperts(normed, embedded);
    for (size_t l = 0; l < kv_.size(); ++l) {
      const KvView& kv = kv_[l];
      const int64_t columns = int64_t{kHeads + 2 * kv.kv_heads} * kv.head_dim;
      const Tensor qkv{qkv_, rows, columns, columns};
      const Tensor attended{activations_, rows, kHeads * kv.head_dim, kHeads * kv.head_dim, type};
      backend_.Copy(qkv_, reinterpret_cast<const std::byte*>(random_qkv_.data()),
                    rows * columns * 4);
      backend_.RopeAndStoreKv(batch_, qkv, kHeads, kv, ropes_[l], attentions_[l].basis);
      backend_.Replay(batch_, &recordings_[l], [&] {
        backend_.Attention(batch_, qkv, kHeads, kv, attentions_[l], attended);
      });
      if (!probes_[l].empty()) {
        backend_.Attention(batch_, qkv, kHeads, kv, attentions_[l], attended);
        backend_.MeasureRecall(batch_, qkv, kHeads, kv, attentions_[l], probes_[l], probed_.data());
      }
    }
    const Tensor logits{logits_, kLogitRows, kVocab, kVocab};
    backend_.ChooseTokens(logits, 0, choices_, tokens_.data());
    const absl::Status status = backend_.Synchronize();
    EXPECT_TRUE(status.ok()) << status;
  }

 private:
  static constexpr int kHeads = 6;
  static constexpr int kColumns = 768;
  static constexpr int kExperts = 6;
  static constexpr int kChosen = 2;
  static constexpr int kExpertOutputs = 96;
  static constexpr int kBlockTokens = 32;
  static constexpr int kBlocks = 80;
  static constexpr KvShape kLayers[] = {{kBlocks, 2, kBlockTokens, 64, 16, kSequences},
                                        {kBlocks, 6, kBlockTokens, 128, 8, kSequences}};

  // Each row's first numbers are its logits.
  void RunExperts(const Tensor& x, const Tensor& sum) {
    ExpertRoutes routes = routes_;
    routes.rows = x.rows;
    const Tensor logits{sum.data, sum.rows, kExperts, sum.stride};
    const Tensor out{expert_out_, x.rows * kChosen, kExpertOutputs, kExpertOutputs};
    const Tensor first_columns{sum.data, sum.rows, kExpertOutputs, sum.stride};
    backend_.Route(logits, /*normalizes=*/true, routes);
    backend_.ExpertMatMul(x, *expert_matrix_, routes, out);
    backend_.AddExperts(out, routes, first_columns);
  }

  std::byte* Take(int64_t bytes) {
    buffers_.push_back(*backend_.Allocate(bytes));
    return buffers_.back()->data();
  }

  const float* Random(int64_t count) {
    std::mt19937 random(static_cast<unsigned>(count));
    const auto values = RandomFloats(count, random);
    std::byte* const data = Take(count * 4);
    backend_.Copy(data, reinterpret_cast<const std::byte*>(values.data()), count * 4);
    return reinterpret_cast<const float*>(data);
  }

  static Selection RandomSelection(std::mt19937& random) {
    constexpr SelectionKind kKinds[] = {SelectionKind::kAll, SelectionKind::kLabels,
                                        SelectionKind::kWindow, SelectionKind::kScores};
    Selection selection{kKinds[random() % 4]};
    if (random() % 2 == 0) {
      selection.fraction = 1 / (1 + static_cast<float>(random() % 64) / 4);
    } else {
      selection.budget_tokens = 1 + static_cast<int>(random() % kContext);
    }
    return selection;
  }

  // None, or one of all that lies before the first row, or of a piece less.
  static SummarySlot RandomSummary(std::mt19937& random, int slot, int first_position) {
    if (random() % 4 == 0) return {};
    const int32_t whole = SummarisedTokens(first_position);
    return {.slot = slot, .tokens = random() % 2 == 0 ? whole : std::max(0, whole - kSummaryPiece)};
  }

  static std::vector<LogitEdit> RandomEdits(std::mt19937& random, bool all) {
    std::vector<LogitEdit> edits;
    for (int token = 0; token < kVocab; ++token) {
      if (all || random() % 5 == 0) edits.push_back({token, 0.5f, static_cast<int>(random() % 3)});
    }
    return edits;
  }

  Backend& backend_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::vector<KvView> kv_;
  std::vector<LayerAttention> attentions_;
  std::array<float, 6> weights_ = {1, 3, 0.2f, 1.5f, 0.9f, 1};
  std::vector<Rope> ropes_;
  std::unique_ptr<Matrix> matrix_, table_;
  std::unique_ptr<Matrix> expert_matrix_;
  ExpertRoutes routes_;
  std::byte* expert_out_ = nullptr;
  std::vector<float> table_floats_;
  const float* norm_ = nullptr;
  int64_t qkv_columns_ = 0;
  std::byte *qkv_ = nullptr, *activations_ = nullptr, *out_ = nullptr, *logits_ = nullptr;
  std::unique_ptr<Recordings> recordings_[std::size(kLayers)];

  std::vector<int32_t> own_blocks_ = std::vector<int32_t>(kBlocks);  ///< shuffled
  StepBatchBuilder builder_;
  StepBatch batch_;
  std::vector<float> random_qkv_;
  std::vector<RecallProbe> probes_[std::size(kLayers)];
  std::vector<ProbedMass> probed_;
  std::vector<std::vector<LogitEdit>> edits_;
  std::vector<TokenChoice> choices_;
  std::vector<int32_t> tokens_;
};

}  // namespace winnow::test

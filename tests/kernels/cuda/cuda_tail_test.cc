// Attention of the CUDA backend that estimates what it does not choose, against a direct float64
// transcription of its definition, and the summaries that it leaves against the CPU backend's.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/float16.h"
#include "tests/kernels/cuda/cuda_backend_fixture.h"
#include "tests/kernels/tail_sequence.h"

namespace winnow::test {
namespace {

constexpr Selection kSparse = {.kind = SelectionKind::kLabels, .fraction = 1.0f / 4};

class CudaTailTest : public CudaBackendTest {
 protected:
  /// A sequence whose pools are copied to the device.
  struct OnDevice {
    TailSequence* sequence;
    KvView kv;
    LayerAttention attention;
    SummarySlot summary;
    std::unique_ptr<Recordings> recordings;
    const Tensor qkv;
    const Tensor out;
  };

  OnDevice Copy(TailSequence& sequence) {
    sequence.tolerance = 5e-3;
    sequence.relative_tolerance = kBf16Error;
    KvView kv = sequence.kv;
    kv.data = Bytes(sequence.kv.data, kv.bytes());
    kv.labels = Bytes(sequence.kv.labels, kv.label_bytes());
    kv.summaries = reinterpret_cast<float*>(Bytes(sequence.kv.summaries, kv.summary_bytes()));
    LayerAttention attention = sequence.attention;
    attention.basis = {nullptr, Floats(sequence.query_basis), nullptr};
    const Shape& shape = sequence.shape;
    return {&sequence,
            kv,
            attention,
            sequence.summary,
            nullptr,
            Put(sequence.qkv, shape.columns()),
            Poisoned(shape.context, int64_t{shape.heads} * shape.head_dim, DataType::kBF16)};
  }

  /// As Sequence::Attend, at once or as a step that may be replayed. Recordings want the same
  /// tensors, so replayed rows are always the sequence's last ones whatever their position.
  std::vector<float> Attend(OnDevice& of, int first, const std::vector<Selection>& selections,
                            bool replays = false, std::vector<ProbedMass>* probed = nullptr) {
    const TailSequence& sequence = *of.sequence;
    const auto count = static_cast<int>(selections.size());
    const std::vector<int32_t> begin{0, count};
    const std::vector<int32_t> tables = sequence.BlockTables();
    const auto rows_of = [&](const std::vector<int32_t>& array) {
      return std::span(array).subspan(static_cast<size_t>(first), static_cast<size_t>(count));
    };
    std::vector<RecallProbe> probes;
    for (int row = 0; row < count && probed != nullptr; ++row) {
      for (int g = 0; g < sequence.shape.kv_heads; ++g) probes.push_back({row, 0, g});
    }
    const StepBatch batch{.tokens = rows_of(sequence.tokens),
                          .positions = rows_of(sequence.positions),
                          .query_begin = begin,
                          .block_tables = tables,
                          .max_blocks = static_cast<int32_t>(sequence.table.size()),
                          .logit_rows = {},
                          .selections = selections,
                          .recall_probes = probes,
                          .summaries = {&of.summary, 1}};
    const int at = replays ? sequence.shape.context - count : first;
    const Tensor rows{of.qkv.Row(at), count, of.qkv.columns, of.qkv.stride};
    const Tensor out{of.out.data, count, of.out.columns, of.out.stride, DataType::kBF16};
    backend_->BeginStep(batch);
    const auto queue = [&] {
      backend_->Attention(batch, rows, sequence.shape.heads, of.kv, of.attention, out);
    };
    if (replays) {
      backend_->Replay(batch, &of.recordings, queue);
    } else {
      queue();
    }
    if (probed != nullptr) {
      probed->resize(probes.size());
      backend_->MeasureRecall(batch, rows, sequence.shape.heads, of.kv, of.attention, probes,
                              probed->data());
    }
    return Get(out);
  }

  std::vector<float> AttendAnew(OnDevice& of, int position, const Selection& selection) {
    of.summary.tokens = 0;
    return Attend(of, position, {selection});
  }

  std::vector<float> SummaryOf(const OnDevice& of) {
    std::vector<float> summary(
        static_cast<size_t>(of.kv.kv_heads * of.kv.summary_shape().floats()));
    backend_->Copy(reinterpret_cast<std::byte*>(summary.data()),
                   reinterpret_cast<const std::byte*>(of.kv.summary(of.summary.slot, 0)),
                   std::ssize(summary) * 4);
    Sync();
    return summary;
  }
};

TEST_F(CudaTailTest, IsWhatSummaryAndLabelsSayInDoublePrecision) {
  int compared = 0;
  int rows = 0;
  uint32_t seed = 60;
  for (const Shape& shape :
       {Shape{}, Shape{.heads = 4, .kv_heads = 4, .head_dim = 128, .width = 32, .context = 300},
        Shape{.heads = 3, .kv_heads = 3, .head_dim = 128, .width = 8, .context = 2500},
        Shape{.heads = 8, .kv_heads = 1, .width = 8, .context = 2500},
        Shape{.heads = 9, .kv_heads = 3, .width = 32, .context = 5000, .block_tokens = 16},
        Shape{.heads = 10, .kv_heads = 2, .width = 24, .block_tokens = 256},
        Shape{.heads = 8, .kv_heads = 2, .head_dim = 80, .width = 24, .context = 1100},
        Shape{.heads = 7, .kv_heads = 1, .head_dim = 96, .width = 32, .context = 1500},
        Shape{.heads = 4, .kv_heads = 2, .head_dim = 256, .width = 32, .context = 1000},
        Shape{.heads = 6, .kv_heads = 1, .head_dim = 128, .width = 16, .context = 1300},
        // Clusters of blocks share a head out.
        Shape{.heads = 1, .kv_heads = 1, .context = 33000, .block_tokens = 64},
        Shape{.heads = 2, .kv_heads = 1, .context = 33000},
        Shape{.heads = 5, .kv_heads = 1, .width = 8, .context = 33000}}) {
    SCOPED_TRACE(testing::Message()
                 << "heads " << shape.heads << " of " << shape.kv_heads << " dim " << shape.head_dim
                 << " width " << shape.width << " context " << shape.context);
    TailSequence sequence(shape, ++seed, shape.width == 24 ? 0.25f : 1.0f);
    OnDevice device = Copy(sequence);
    if (shape.context > 2000) {
      sequence.least_margin = 0;
      sequence.tolerance *= 2;  // one of the sample counts for four
    }
    for (const float fraction : {0.22f, 0.25f, 0.5f}) {
      const Selection selection{.kind = SelectionKind::kLabels, .fraction = fraction};
      const int position = shape.context - 1;
      const auto out = AttendAnew(device, position, selection);
      compared += sequence.CheckTail(position, selection, out.data());
      rows += shape.kv_heads;
      if (HasFailure()) return;
    }
  }
  EXPECT_GT(compared, rows / 2);
}

TEST_F(CudaTailTest, IsAsExactWhereLabelsLeaveLittleOfTheirMass) {
  int compared = 0;
  for (const int heads : {2, 3, 6, 14}) {
    for (const int width : {8, 32}) {
      TailSequence sequence({.heads = heads, .kv_heads = heads == 3 ? 3 : 2, .width = width}, 90);
      // From 40 % down to 0.1 % is left.
      for (float& x : sequence.query_basis) x *= 2;
      OnDevice device = Copy(sequence);
      // Tensor cores cut products of 32 tokens off at 2^-24 of their largest sum, downwards: of
      // 0.2 % some 16 2^-24 / 0.002 = 5e-4, which mean codes of 8 are too small by, in 32
      // dimensions with slopes of 0.2 and either sign: 0.2 sqrt(32) 8 5e-4.
      sequence.tolerance += 5e-3;
      const auto out = AttendAnew(device, 699, kSparse);
      compared += sequence.CheckTail(699, kSparse, out.data());
    }
  }
  EXPECT_GT(compared, 8);
}

TEST_F(CudaTailTest, ProbesFindWhatTheEstimateHas) {
  int compared = 0;
  for (const int heads : {2, 4, 6}) {
    TailSequence sequence({.heads = heads}, 91);
    OnDevice device = Copy(sequence);
    // Rows of a step, one of which is dense.
    const std::vector<Selection> selections{kSparse, {}, kSparse, kSparse};
    std::vector<ProbedMass> probed;
    const auto out = Attend(device, 696, selections, /*replays=*/false, &probed);
    const auto columns = std::ssize(out) / std::ssize(selections);
    for (const int row : {0, 2, 3}) {
      compared += sequence.CheckTail(696 + row, kSparse, &out[row * columns],
                                     &probed[static_cast<size_t>(2 * row)]);
    }
    EXPECT_EQ(probed[2], ProbedMass());
    device.summary.slot = -1;
    Attend(device, 696, selections, /*replays=*/false, &probed);
    for (const ProbedMass& mass : probed) EXPECT_EQ(mass.estimated, 0);
  }
  EXPECT_GT(compared, 4);
}

TEST_F(CudaTailTest, RowsOfOneStepEachHaveTheirOwnSummary) {
  for (const Shape& shape :
       {Shape{},
        Shape{.heads = 2, .kv_heads = 2, .head_dim = 128, .width = 8, .block_tokens = 16}}) {
    TailSequence sequence(shape, 71);
    OnDevice device = Copy(sequence);
    int compared = 0;
    for (const int first : {250, 256, 319}) {
      const int rows = shape.context - first;
      device.summary.tokens = 0;
      const auto out = Attend(device, first, std::vector<Selection>(rows, kSparse));
      const auto columns = std::ssize(out) / rows;
      for (int position = std::max(first, 256); position < shape.context; position += 7) {
        compared += sequence.CheckTail(position, kSparse, &out[(position - first) * columns]);
      }
      if (HasFailure()) return;
    }
    EXPECT_GT(compared, 100);
  }
}

TEST_F(CudaTailTest, MovesTheOutputByMoreThanTestsTolerate) {
  TailSequence sequence({}, 70);
  OnDevice device = Copy(sequence);
  const auto with = AttendAnew(device, 699, kSparse);
  device.attention.tail_weights = nullptr;
  const auto without = AttendAnew(device, 699, kSparse);
  float most = 0;
  for (size_t i = 0; i < with.size(); ++i) most = std::max(most, std::abs(with[i] - without[i]));
  EXPECT_GT(most, 0.1f);
}

TEST_F(CudaTailTest, SummariesAreTheCpus) {
  for (const Shape& shape :
       {Shape{.context = 1500}, Shape{.heads = 2, .kv_heads = 2, .head_dim = 128, .width = 32},
        Shape{.heads = 2, .kv_heads = 2, .width = 8, .block_tokens = 16},
        Shape{.heads = 2, .kv_heads = 2, .head_dim = 256, .width = 24, .block_tokens = 256}}) {
    TailSequence sequence(shape, 79);
    OnDevice device = Copy(sequence);
    sequence.AttendAnew(shape.context - 1, kSparse);
    AttendAnew(device, shape.context - 1, kSparse);
    const std::vector<float> got = SummaryOf(device);
    const SummaryShape of = sequence.kv.summary_shape();
    for (int g = 0; g < shape.kv_heads; ++g) {
      const float* want = sequence.kv.summary(1, g);
      // Codes are whole numbers, whose sums are exact.
      for (int i = 0; i < shape.width; ++i) {
        ASSERT_EQ(got[static_cast<size_t>(g * of.floats() + i)], want[i]);
      }
      const auto error = [&](int64_t begin, int64_t end) {
        double sum = 0;
        double norm = 0;
        for (int64_t i = begin; i < end; ++i) {
          sum += std::pow(double{got[static_cast<size_t>(g * of.floats() + i)]} - want[i], 2);
          norm += std::pow(double{want[i]}, 2);
        }
        return std::sqrt(sum / norm);
      };
      EXPECT_LT(error(of.totals(), of.moments()), 1e-5);
      EXPECT_LT(error(of.moments(), of.sums()), 1e-5);
      // The estimate, in fp16: numbers may be rounded to either neighbour.
      const auto* got_halves =
          reinterpret_cast<const uint16_t*>(&got[static_cast<size_t>(g * of.floats() + of.sums())]);
      const auto* want_halves = reinterpret_cast<const uint16_t*>(want + of.sums());
      double sum = 0;
      double norm = 0;
      for (int64_t i = 0; i < of.estimate_halves(); ++i) {
        const double expected = HalfToFloat(want_halves[i]);
        sum += std::pow(HalfToFloat(got_halves[i]) - expected, 2);
        norm += std::pow(expected, 2);
      }
      EXPECT_LT(std::sqrt(sum / norm), 1e-3);
    }
  }
}

TEST_F(CudaTailTest, ASummaryIsTheSameGrownStepByStepOrMadeAtOnce) {
  TailSequence sequence({}, 72);
  OnDevice device = Copy(sequence);
  AttendAnew(device, 680, kSparse);
  const std::vector<float> at_once = SummaryOf(device);
  device.summary.tokens = 0;
  for (const int position : {30, 100, 127, 128, 129, 400, 639, 640, 680}) {
    Attend(device, position, {kSparse});
    device.summary.tokens = SummarisedTokens(position);
  }
  EXPECT_EQ(SummaryOf(device), at_once);
  // Rows that lie further on leave no trace.
  device.summary.tokens = 0;
  Attend(device, 300, std::vector<Selection>(200, kSparse));
  device.summary.tokens = SummarisedTokens(300);
  Attend(device, 500, std::vector<Selection>(180, Selection{}));
  device.summary.tokens = SummarisedTokens(500);
  Attend(device, 680, {kSparse});
  EXPECT_EQ(SummaryOf(device), at_once);
}

TEST_F(CudaTailTest, AReplayedStepIsWhatItIsWhenItIsQueued) {
  TailSequence sequence({}, 80);
  // Recordings refer to the last row: let all rows ask the same.
  const Shape& shape = sequence.shape;
  for (int t = 0; t < shape.context - 1; ++t) {
    std::copy_n(&sequence.qkv[int64_t{shape.context - 1} * shape.columns()],
                shape.heads * shape.head_dim, &sequence.qkv[int64_t{t} * shape.columns()]);
  }
  OnDevice queued = Copy(sequence);
  OnDevice replayed = Copy(sequence);
  for (int position = 560; position < shape.context; ++position) {
    const auto want = Attend(queued, position, {kSparse});
    EXPECT_EQ(Attend(replayed, position, {kSparse}, /*replays=*/true), want) << position;
    queued.summary.tokens = replayed.summary.tokens = SummarisedTokens(position);
  }
}

TEST_F(CudaTailTest, NothingIsEstimatedOfWhatIsChosen) {
  TailSequence sequence({}, 73);
  OnDevice device = Copy(sequence);
  const Selection all{.kind = SelectionKind::kLabels, .fraction = 1};
  EXPECT_EQ(AttendAnew(device, 699, all), Attend(device, 699, {Selection{}}));
}

TEST_F(CudaTailTest, WithoutASummaryOrAWeightWhatIsNotChosenIsLeftOut) {
  TailSequence sequence({}, 74);
  OnDevice device = Copy(sequence);
  const auto with = AttendAnew(device, 699, kSparse);
  device.attention.tail_weights = nullptr;
  const auto published = AttendAnew(device, 699, kSparse);
  EXPECT_NE(with, published);
  device.attention.tail_weights = sequence.weights.data();
  device.summary.slot = -1;
  EXPECT_EQ(AttendAnew(device, 699, kSparse), published);
  device.summary.slot = 1;
  sequence.weights = {1, 0};
  device.attention.tail_weights = sequence.weights.data();
  const auto mixed = AttendAnew(device, 699, kSparse);
  const auto half = static_cast<int64_t>(mixed.size()) / 2;  // of each KV head
  EXPECT_TRUE(std::equal(mixed.begin(), mixed.begin() + half, with.begin()));
  EXPECT_TRUE(std::equal(mixed.begin() + half, mixed.end(), published.begin() + half));
  // Too early for a summary, which is not of sinks.
  const Selection most{.kind = SelectionKind::kLabels, .budget_tokens = 120};
  sequence.weights = {1, 1};
  for (const int sinks : {64, 100}) {
    device.attention.sinks = sinks;
    device.summary.slot = 1;
    const auto early = AttendAnew(device, 127, most);
    device.summary.slot = -1;
    EXPECT_EQ(AttendAnew(device, 127, most), early) << sinks;
  }
}

TEST_F(CudaTailTest, EqualLabelsLeaveTheMeanValueOfWhatIsNotChosen) {
  for (const int heads : {2, 6}) {
    TailSequence sequence({.heads = heads, .context = 600}, 75);
    std::fill_n(sequence.key_basis.begin(), sequence.key_basis.size(), 0.0f);
    sequence.Store();
    OnDevice device = Copy(sequence);
    const Selection selection{.kind = SelectionKind::kLabels, .fraction = 0.25f};
    const auto out = AttendAnew(device, 599, selection);
    sequence.summary.tokens = 0;
    const auto want = sequence.Attend(599, {selection});
    for (size_t i = 0; i < out.size(); ++i) {
      ASSERT_NEAR(out[i], want[i], 5e-3 + kBf16Error * std::abs(want[i])) << i;
    }
  }
}

}  // namespace
}  // namespace winnow::test

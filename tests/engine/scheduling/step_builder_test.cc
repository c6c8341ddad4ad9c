#include "engine/scheduling/step_builder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "tests/engine/scheduling/sequences.h"

namespace winnow {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class NoMemory : public BlockMemory {
 public:
  absl::Status Copy(const BlockCopy&) override { return absl::OkStatus(); }
};

class StepBuilderTest : public testing::Test {
 protected:
  Sequence& Make(int prompt, int first = 0) { return Make({.prompt = prompt, .first = first}); }
  Sequence& Make(const Sequences::Kind& kind) {
    Sequence& sequence = made_.Make(kind);
    sequence.SetPast();
    EXPECT_TRUE(store_.Extend(sequence.mutable_kv(), 0, 12));
    return sequence;
  }

  /// Of so many sequences that decode by their labels, each measured in this step.
  std::vector<Span> ProbedSpans(int count) {
    std::vector<Span> spans;
    for (int i = 0; i < count; ++i) {
      Sequence& sequence = Make({.prompt = 3 + i,
                                 .attention = {.kind = SelectionKind::kLabels},
                                 .recall = {.interval_tokens = 1}});
      BeginToDecode(sequence);
      spans.push_back(sequence.NextSpan(1));
    }
    return spans;
  }

  NoMemory memory_;
  KvStore store_{32, 4, {{0}, 32, 4}, memory_};
  Sequences made_;
  StepBuilder builder_{{.layers = 2, .kv_heads = 3}};
};

TEST_F(StepBuilderTest, SpansBecomeRowsOfTheirSequencesAtTheirPositions) {
  Sequence& a = Make(6, 2);
  Sequence& b = Make(3, 9);
  a.set_computed(2);
  const Span spans[] = {a.NextSpan(3), b.NextSpan(3)};
  builder_.Build(spans);
  const StepBatch& batch = builder_.batch();
  EXPECT_THAT(batch.tokens, ElementsAre(4, 5, 6, 9, 10, 11));
  EXPECT_THAT(batch.positions, ElementsAre(2, 3, 4, 0, 1, 2));
  EXPECT_THAT(batch.query_begin, ElementsAre(0, 3, 6));
  EXPECT_EQ(batch.max_blocks, 3);
  EXPECT_TRUE(std::ranges::equal(batch.block_tables.first(3), a.kv().blocks()));
  EXPECT_TRUE(std::ranges::equal(batch.block_tables.subspan(3), b.kv().blocks()));
  EXPECT_THAT(batch.logit_rows, ElementsAre(5)) << "a's prompt does not end in this step";
  EXPECT_EQ(builder_.choices().size(), 1u);
}

TEST_F(StepBuilderTest, SequencesThatSelectByLabelsHaveSummaries) {
  StepBuilder builder({.layers = 2, .kv_heads = 3, .summary_slots = 4});
  const Span dense = Make(6).NextSpan(3);
  std::vector<Span> spans = ProbedSpans(2);
  spans.insert(spans.begin() + 1, dense);
  builder.Build(spans);
  EXPECT_THAT(builder.batch().summaries,
              ElementsAre(SummarySlot{.slot = 0}, SummarySlot{}, SummarySlot{.slot = 1}));
}

TEST_F(StepBuilderTest, EachGroupOfLayersHasABlockTableOfEachSequence) {
  KvStore store(32, 4, {{0, 4}, 6, 4}, memory_);
  StepBuilder builder({.layers = 2, .kv_heads = 3, .group_windows = {0, 4}});
  std::vector<Span> spans;
  for (const int computed : {9, 2}) {
    Sequence& sequence = made_.Make({.prompt = 12});
    ASSERT_TRUE(store.Extend(sequence.mutable_kv(), 0, 12));
    sequence.set_computed(computed);
    store.FreeBehind(sequence.mutable_kv(), computed);
    spans.push_back(sequence.NextSpan(3));
  }
  builder.Build(spans);
  const StepBatch& batch = builder.batch();
  ASSERT_EQ(batch.max_blocks, 3);
  for (int group = 0; group < 2; ++group) {
    for (int s = 0; s < 2; ++s) {
      const BlockTable& kv = spans[static_cast<size_t>(s)].sequence->kv();
      EXPECT_TRUE(std::ranges::equal(std::span(batch.BlockTable(group, s), 3), kv.blocks(group)));
    }
  }
  EXPECT_EQ(batch.BlockTable(1, 0)[0], kNoBlock) << "positions 0 to 3, of which none is seen";
  for (const Span& span : spans) store.Release(span.sequence->mutable_kv());
}

TEST_F(StepBuilderTest, EveryRowOfDraftsHasAChoiceWithTheNumberOfItsPosition) {
  Sequence& a = Make(4);
  BeginToDecode(a);
  const std::vector<int32_t> drafts = {7, 8};
  a.SetDrafts(drafts);
  const Span span = a.NextSpan(3);
  builder_.Build({&span, 1});
  EXPECT_THAT(builder_.batch().tokens, ElementsAre(1, 7, 8));
  EXPECT_THAT(builder_.batch().logit_rows, ElementsAre(0, 1, 2));
  ASSERT_EQ(builder_.choices().size(), 3u);
  for (int i = 0; i < 3; ++i) {
    const TokenChoice& choice = builder_.choices()[static_cast<size_t>(i)];
    EXPECT_EQ(choice.row, i);
    EXPECT_EQ(choice.uniform, UniformAt(1, 0, a.generated() + i));
  }
}

TEST_F(StepBuilderTest, PenaltiesOfARowCountTheDraftsBeforeIt) {
  SamplingParams sampling;
  sampling.frequency_penalty = 0.5f;
  Sequence& a = Make({.sampling = sampling});
  BeginToDecode(a);
  const std::vector<int32_t> drafts = {7, 7};
  a.SetDrafts(drafts);
  const Span span = a.NextSpan(3);
  builder_.Build({&span, 1});
  const auto count_of_7 = [&](size_t choice) {
    for (const LogitEdit& edit : builder_.choices()[choice].edits) {
      if (edit.token == 7) return edit.count;
    }
    return 0;
  };
  EXPECT_EQ(count_of_7(0), 0);
  EXPECT_EQ(count_of_7(1), 1);
  EXPECT_EQ(count_of_7(2), 2);
}

TEST_F(StepBuilderTest, ForksChooseFromTheirParentsRowWithNumbersOfTheirOwn) {
  Sequence& parent = Make(4);
  Sequence& fork = made_.Sibling(parent);
  Sequence& other = Make(2);
  parent.set_forks({&fork});
  const Span spans[] = {parent.NextSpan(4), other.NextSpan(2)};
  builder_.Build(spans);
  ASSERT_EQ(builder_.choices().size(), 3u);
  EXPECT_EQ(builder_.choices()[0].row, 0);
  EXPECT_EQ(builder_.choices()[1].row, 0);
  EXPECT_EQ(builder_.choices()[2].row, 1);
  EXPECT_EQ(builder_.choices()[1].uniform, UniformAt(1, 1, 0));
}

TEST_F(StepBuilderTest, ProbesAreOrderedByLayerAndKnowWhomTheyMeasure) {
  const std::vector<Span> spans = ProbedSpans(8);
  builder_.Build(spans);
  const StepBatch& batch = builder_.batch();
  ASSERT_EQ(batch.recall_probes.size(), 8u);
  for (size_t i = 0; i < 8; ++i) {
    const RecallProbe& probe = batch.recall_probes[i];
    EXPECT_GE(probe.layer, batch.recall_probes[i == 0 ? 0 : i - 1].layer);
    const StepBuilder::Probed& probed = builder_.probed(i);
    EXPECT_EQ(batch.positions[static_cast<size_t>(probe.row)], probed.position);
    EXPECT_EQ(spans[static_cast<size_t>(probe.row)].sequence, probed.sequence);
  }
}

TEST_F(StepBuilderTest, ProbesAreOfLayersWhoseRowsMaySelect) {
  const std::vector<Span> spans = ProbedSpans(8);
  const auto layers = [&](const AttentionShape& shape) {
    StepBuilder builder(shape);
    builder.Build(spans);
    std::set<int> layers;
    for (const RecallProbe& probe : builder.batch().recall_probes) layers.insert(probe.layer);
    return layers;
  };
  EXPECT_THAT(layers({.layers = 5, .kv_heads = 1, .windowed = {0, 1, 3}}), ElementsAre(2, 4));
  EXPECT_THAT(layers({.layers = 2, .kv_heads = 1, .windowed = {0, 1}}), IsEmpty());
}

}  // namespace
}  // namespace winnow

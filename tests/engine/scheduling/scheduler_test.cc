#include "engine/scheduling/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "engine/scheduling/prompt_shares.h"
#include "tests/engine/scheduling/known_costs.h"
#include "tests/engine/scheduling/sequences.h"

namespace winnow {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::SizeIs;

class NoMemory : public BlockMemory {
 public:
  absl::Status Copy(const BlockCopy&) override { return absl::OkStatus(); }
};

class SchedulerTest : public testing::Test {
 protected:
  explicit SchedulerTest(int blocks = 16)
      : store_(blocks, 4, {{0}, 10, 4}, memory_),
        scheduler_({.max_step_tokens = 10, .recall = {}}, store_) {}

  ~SchedulerTest() override {
    for (Sequence* sequence : added_) {
      if (sequence->state() != Sequence::State::kFinished) scheduler_.Remove(*sequence);
    }
    EXPECT_EQ(store_.free_blocks(), store_.total_blocks());
  }

  Sequence& Add(const Sequences::Kind& kind) {
    Sequence& sequence = made_.Make(kind);
    scheduler_.Add(sequence);
    added_.push_back(&sequence);
    return sequence;
  }

  Schedule Form() {
    Schedule step = scheduler_.Form(forecast_, now_);
    scheduler_.CheckInvariants();
    return step;
  }

  /// Computes a step: every row chooses `token`.
  void Compute(const Schedule& step, int32_t token = 1) {
    for (const Span& span : step.spans) {
      scheduler_.NoteComputed(span);
      if (span.logit_rows() == 0) continue;
      const std::vector<int32_t> choices(static_cast<size_t>(span.logit_rows()), token);
      const absl::StatusOr<Output> output = span.sequence->Accept(choices, {});
      ASSERT_TRUE(output.ok());
      scheduler_.NoteAccepted(*span.sequence, static_cast<int>(output->tokens.size()));
    }
    scheduler_.CheckInvariants();
  }

  /// A second for a prompt's token, and for a step, unless told otherwise.
  void TeachForecast(const KnownCosts& costs = {.steps = 1, .prompt_tokens = 1}) {
    Teach(costs, [&](const StepWork& step, double seconds) { forecast_.NoteStep(step, seconds); });
  }

  static std::vector<Sequence*> Of(const Schedule& step) {
    std::vector<Sequence*> result;
    for (const Span& span : step.spans) result.push_back(span.sequence);
    return result;
  }

  NoMemory memory_;
  KvStore store_;
  Scheduler scheduler_;
  Forecast forecast_{EngineOptions()};
  absl::Time now_ = absl::UnixEpoch();
  Sequences made_;
  std::vector<Sequence*> added_;
};

class SmallSchedulerTest : public SchedulerTest {
 protected:
  SmallSchedulerTest() : SchedulerTest(/*blocks=*/4) {}
};

TEST_F(SchedulerTest, DecodeTokensComeFirstThenPromptsUntilTheRowsEnd) {
  Sequence& decoding = Add({});
  Compute(Form());
  Sequence& prompt = Add({.prompt = 12, .first = 5});
  const Schedule step = Form();
  EXPECT_THAT(Of(step), ElementsAre(&decoding, &prompt));
  EXPECT_EQ(step.spans[0].rows(), 1);
  EXPECT_EQ(step.spans[1].rows(), 9);
  EXPECT_EQ(step.rows_left, 0);
  Compute(step);
  const Schedule next = Form();
  EXPECT_EQ(next.spans[1].begin, 9);
  EXPECT_EQ(next.spans[1].rows(), 3);
  EXPECT_EQ(next.spans[1].logit_rows(), 1);
}

TEST_F(SchedulerTest, AShortPromptDoesNotWaitForALongOneOfAnotherClient) {
  Sequence& long_one = Add({.prompt = 40, .client = "a"});
  Compute(Form());
  Sequence& short_one = Add({.prompt = 2, .first = 5, .client = "b"});
  const Schedule step = Form();
  ASSERT_THAT(Of(step), ElementsAre(&long_one, &short_one));
  EXPECT_EQ(step.spans[0].rows(), 8);
  EXPECT_EQ(step.spans[1].rows(), 2);
  EXPECT_EQ(step.spans[1].logit_rows(), 1);
}

TEST_F(SchedulerTest, AShortPromptDoesNotWaitForALongOneOfItsClient) {
  Sequence& long_one = Add({.prompt = 40});
  Compute(Form());
  Sequence& short_one = Add({.prompt = 3, .first = 5});
  const Schedule step = Form();
  ASSERT_THAT(Of(step), ElementsAre(&long_one, &short_one));
  EXPECT_EQ(step.spans[0].rows(), 7);
  EXPECT_EQ(step.spans[1].rows(), 3);
}

TEST_F(SchedulerTest, PromptsOfAClientThatAreAlikeGoOneAfterAnother) {
  Sequence& first = Add({.prompt = 20});
  Sequence& second = Add({.prompt = 20});
  EXPECT_THAT(Of(Form()), ElementsAre(&first));
  EXPECT_EQ(second.state(), Sequence::State::kWaiting);
}

TEST_F(SchedulerTest, WhoHasNoPlaceBesideItsOwnClientsPromptsHoldsUpNoOtherClient) {
  Sequence& running = Add({.prompt = 30, .client = "a"});
  Compute(Form());
  Sequence& second = Add({.prompt = 20, .first = 3, .client = "a"});
  Sequence& other = Add({.prompt = 16, .first = 5, .client = "b"});
  const Schedule step = Form();
  ASSERT_THAT(Of(step), ElementsAre(&running, &other));
  EXPECT_EQ(second.state(), Sequence::State::kWaiting);
  EXPECT_EQ(step.spans[0].rows(), 5);
  EXPECT_EQ(step.spans[1].rows(), 5);
  EXPECT_EQ(step.blocked_priority, std::nullopt);
}

TEST_F(SchedulerTest, PromptsOfAHigherPriorityComeFirst) {
  Sequence& low = Add({.prompt = 30, .priority = 1, .client = "a"});
  Compute(Form());
  Sequence& high = Add({.prompt = 12, .first = 5, .client = "b"});
  const Schedule step = Form();
  ASSERT_THAT(Of(step), ElementsAre(&high));
  EXPECT_EQ(step.spans[0].rows(), 10);
  Compute(step);
  EXPECT_THAT(Of(Form()), ElementsAre(&high, &low));
}

TEST_F(SchedulerTest, NoMoreClientsShareThanMay) {
  std::vector<Sequence*> prompts;
  for (int i = 0; i <= kMaxSharingClients; ++i) {
    prompts.push_back(&Add({.prompt = 3, .first = i, .client = std::string(1, 'a' + i)}));
  }
  const Schedule step = Form();
  EXPECT_THAT(Of(step), SizeIs(kMaxSharingClients));
  EXPECT_EQ(step.rows_left, 0);
  EXPECT_EQ(prompts.back()->state(), Sequence::State::kWaiting);
}

TEST_F(SchedulerTest, DraftsGetTheRowsThatNoDecodeNeeds) {
  std::vector<Sequence*> decoding;
  for (int i = 0; i < 7; ++i) decoding.push_back(&Add({.prompt = 1, .first = i}));
  Compute(Form());
  const std::vector<int32_t> drafts = {1, 1, 1, 1, 1};
  for (Sequence* sequence : decoding) sequence->SetDrafts(drafts);
  const Schedule step = Form();
  ASSERT_EQ(step.spans.size(), 7u);
  EXPECT_EQ(step.spans[0].rows(), 1 + 3) << "10 rows, of which 7 are decodes";
  for (size_t i = 1; i < 7; ++i) EXPECT_EQ(step.spans[i].rows(), 1);
}

TEST_F(SmallSchedulerTest, DraftsGetTheBlocksThatNoDecodeNeeds) {
  Sequence& first = Add({.prompt = 3});
  Sequence& second = Add({.prompt = 3, .first = 7});
  Compute(Form());
  // Each of the two fills its block now; there are two more.
  const std::vector<int32_t> drafts = {1, 1, 1};
  first.SetDrafts(drafts);
  second.SetDrafts(drafts);
  const Schedule step = Form();
  EXPECT_TRUE(step.preempted.empty());
  EXPECT_EQ(step.spans[0].rows(), 1 + 3) << "a block is left for the other";
  EXPECT_EQ(step.spans[1].rows(), 1 + 3) << "none needs the last one";
  EXPECT_EQ(store_.free_blocks(), 0);
}

TEST_F(SchedulerTest, BlocksOfRejectedDraftsComeBack) {
  Sequence& sequence = Add({.prompt = 3});
  Compute(Form());
  const std::vector<int32_t> drafts = {2, 3, 4, 5, 6};
  sequence.SetDrafts(drafts);
  const Schedule step = Form();
  EXPECT_EQ(step.spans[0].rows(), 6);
  EXPECT_EQ(store_.used_blocks(), 3);
  Compute(step, /*token=*/1);
  EXPECT_EQ(sequence.length(), 5);
  EXPECT_EQ(sequence.computed(), 4);
  EXPECT_EQ(store_.used_blocks(), 2);
}

TEST_F(SchedulerTest, KeptDraftsAreComputed) {
  Sequence& sequence = Add({.prompt = 3});
  Compute(Form());
  const std::vector<int32_t> drafts = {1, 1, 9, 1};
  sequence.SetDrafts(drafts);
  Compute(Form(), /*token=*/1);
  EXPECT_EQ(sequence.length(), 4 + 3);
  EXPECT_EQ(sequence.computed(), 6);
  EXPECT_EQ(Form().spans[0].begin, 6);
}

TEST_F(SmallSchedulerTest, DecodeWithoutABlockTakesOneFromTheYoungest) {
  Sequence& old = Add({.prompt = 7});
  Sequence& young = Add({.prompt = 3, .first = 7});
  Compute(Form());  // 8 and 4 tokens: three blocks
  Compute(Form());  // 9 and 5: five blocks, to be had when these tokens are computed
  const Schedule step = Form();
  EXPECT_THAT(step.preempted, ElementsAre(&young));
  EXPECT_THAT(Of(step), ElementsAre(&old));
  EXPECT_EQ(young.state(), Sequence::State::kWaiting);
  EXPECT_EQ(young.computed(), 0);
}

TEST_F(SmallSchedulerTest, HigherPriorityThatWaitsTakesTheBlocksOfALowerOne) {
  Sequence& low = Add({.prompt = 9, .priority = 1});
  Compute(Form());
  Sequence& high = Add({.prompt = 5, .first = 7, .priority = 0});
  const Schedule step = Form();
  EXPECT_THAT(step.preempted, ElementsAre(&low));
  EXPECT_THAT(Of(step), ElementsAre(&high));
  EXPECT_EQ(step.blocked_priority, std::optional(1))
      << "who has given way does not come back at once";
}

TEST_F(SmallSchedulerTest, NobodyOvertakesTheOneWhoseTurnItIs) {
  Sequence& running = Add({.prompt = 9});
  Compute(Form());
  Add({.prompt = 8, .first = 7});                    // has to wait for blocks
  Sequence& small = Add({.prompt = 1, .first = 3});  // would fit
  const Schedule step = Form();
  EXPECT_THAT(Of(step), ElementsAre(&running));
  EXPECT_EQ(step.blocked_priority, std::optional(0));
  EXPECT_EQ(small.state(), Sequence::State::kWaiting);
}

TEST_F(SchedulerTest, WhoMayNotStartHoldsNoBlocks) {
  Sequence& running = Add({.prompt = 3});
  Compute(Form());
  TeachForecast();
  Sequence& sequence = Add({.prompt = 9, .first = 5, .deadline = now_ + absl::Seconds(10)});
  const Schedule step = Form();
  EXPECT_THAT(Of(step), ElementsAre(&running));
  EXPECT_TRUE(sequence.kv().empty());
  EXPECT_EQ(step.blocked_priority, std::nullopt) << "slots and blocks are free";
}

class DeadlineTest : public SchedulerTest {
 protected:
  // One runs that has 19 s of work and, at first, 8 s to spare.
  DeadlineTest() : SchedulerTest(64), running_(Add({.deadline = now_ + absl::Seconds(28)})) {
    Compute(Form());
    TeachForecast();
  }
  Sequence& running_;
};

TEST_F(DeadlineTest, WhoseStartADeadlineForbidsIsPassedOverByWhoHoldsItUpInNothing) {
  Sequence& head = Add({.prompt = 9, .first = 5, .client = "head", .max_tokens = 2});
  Sequence& same = Add({.prompt = 9, .first = 7, .client = "head", .max_tokens = 2});
  Sequence& brief = Add({.prompt = 2, .first = 9, .client = "brief", .max_tokens = 2});
  const Schedule step = Form();
  EXPECT_THAT(Of(step), ElementsAre(&running_, &brief));
  EXPECT_TRUE(head.kv().empty());
  EXPECT_TRUE(same.kv().empty());
  scheduler_.Remove(running_);
  EXPECT_THAT(Of(Form()), Contains(&head)) << "the next as soon as it may be";
}

TEST_F(DeadlineTest, NobodyIsPassedOverForEver) {
  Sequence& head = Add({.prompt = 9, .first = 5, .client = "head", .max_tokens = 2});
  int passes = 0;
  std::optional<int> blocked;
  while (!blocked && passes < 1000) {
    Sequence& brief = Add({.prompt = 2, .first = 9, .client = "brief", .max_tokens = 2});
    blocked = Form().blocked_priority;
    passes += brief.state() == Sequence::State::kRunning;
    scheduler_.Remove(brief);
  }
  EXPECT_EQ(passes, Scheduler::kMaxPasses);
  EXPECT_EQ(blocked, std::optional(0));
  EXPECT_EQ(head.state(), Sequence::State::kWaiting);
}

TEST_F(DeadlineTest, NobodyPassesWhoWouldBeLateWithTheOtherBesideIt) {
  Add({.prompt = 9, .first = 5, .client = "head", .max_tokens = 2});
  Add({.prompt = 2,
       .first = 9,
       .client = "brief",
       .max_tokens = 2,
       .deadline = now_ + absl::Seconds(6)});  // 4 s of its own, and 9 s of the head's prompt
  EXPECT_THAT(Of(Form()), ElementsAre(&running_));
}

TEST_F(SchedulerTest, WhoRestsKeepsItsBlocksWhenOnlyADeadlineNeedsRoom) {
  Sequence& resting = Add({.prompt = 3});
  Sequence& low = Add({.prompt = 3, .first = 3, .priority = 1});
  Compute(Form());
  resting.set_paused(true);
  TeachForecast({.prompt_tokens = 1, .decode_tokens = 1});
  // 9 s for its prompt, and 20 for its tokens if it decodes alone.
  const absl::Time deadline = now_ + absl::Seconds(9 + 20 + 10);
  Sequence& high = Add({.prompt = 9, .first = 5, .deadline = deadline});
  const Schedule step = Form();
  EXPECT_THAT(step.preempted, ElementsAre(&low));
  EXPECT_THAT(Of(step), ElementsAre(&high));
  EXPECT_FALSE(resting.kv().empty());
}

TEST_F(SchedulerTest, PromptBeginsBehindTheFullBlocksThatAreKnown) {
  Sequence& first = Add({.prompt = 9});
  Compute(Form());
  scheduler_.Remove(first);
  Sequence& second = Add({.prompt = 10});  // begins alike
  const Schedule step = Form();
  EXPECT_EQ(step.spans[0].sequence, &second);
  EXPECT_EQ(step.spans[0].begin, 8);
}

TEST_F(SchedulerTest, ForksGoOnFromTheirParent) {
  Sequence& parent = Add({.prompt = 6});
  Sequence& fork = made_.Sibling(parent);
  added_.push_back(&fork);
  parent.set_forks({&fork});
  const Schedule step = Form();
  EXPECT_EQ(scheduler_.running().slots(), 2);
  scheduler_.NoteComputed(step.spans[0]);
  ASSERT_TRUE(scheduler_.Fork(parent).ok());
  EXPECT_EQ(fork.state(), Sequence::State::kRunning);
  EXPECT_EQ(fork.pending(), 0);
  EXPECT_EQ(fork.kv().blocks()[0], parent.kv().blocks()[0]);
  EXPECT_NE(fork.kv().blocks()[1], parent.kv().blocks()[1]);
  scheduler_.CheckInvariants();
}

}  // namespace
}  // namespace winnow

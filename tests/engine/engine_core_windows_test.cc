// Models with sliding windows: what lies behind them comes free, in groups of layers of their own.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/engine/core_requests.h"
#include "tests/engine/fakes.h"

namespace winnow {
namespace {

/// Of windows of 8 tokens, in blocks of 4 and with steps of 16 rows: a row sees at most three
/// blocks, and a step may begin within one.
constexpr int kWindow = 8;
constexpr int kWindowBlocks = 3;
constexpr int kMostBlocks = (kWindow - 1 + 16 + 2 * 3) / 4;

TEST(EngineCoreWindowsTest, ALongSequenceHoldsWindowAndChunk) {
  CoreBench bench(Options(), {kWindow});
  const Request request = Greedy(1, Prompt(100), 20);
  RecordingSink sink;
  bench.Submit(request, sink);
  int most = 0;
  while (bench.Step()) {
    most = std::max(most, bench.core.store().used_blocks());
    if (sink.outputs == 0) continue;
    EXPECT_LE(bench.core.store().used_blocks(), kWindowBlocks);
  }
  EXPECT_EQ(most, kMostBlocks);
  ExpectAsReference(bench, request, sink);
}

TEST(EngineCoreWindowsTest, LayersWithoutWindowKeepEverythingBesideThem) {
  CoreBench bench(Options(), {kWindow, 0, kWindow});
  const Request request = Greedy(1, Prompt(60), 20);
  RecordingSink sink;
  bench.Submit(request, sink);
  bench.Step();
  EXPECT_EQ(bench.core.store().used_blocks(), 15 + 2 * kMostBlocks);
  while (sink.outputs < 12) bench.Step();
  // Of 60 + 12 tokens, the last of which has not been computed.
  EXPECT_EQ(bench.core.store().used_blocks(), 18 + 2 * 2);
  bench.RunToEnd();
  ExpectAsReference(bench, request, sink);
}

TEST(EngineCoreWindowsTest, SequencesRunTogetherThatTheirWholeContextsHaveNoRoomFor) {
  // A whole context would take 25 of the 32 blocks of each group.
  CoreBench bench(Options(32), {kWindow, kWindow});
  std::vector<Request> requests;
  std::vector<RecordingSink> sinks(4);
  for (int i = 0; i < 4; ++i) {
    requests.push_back(Greedy(static_cast<uint64_t>(i) + 1, Prompt(40, i), 60));
    requests.back().client = std::string(1, static_cast<char>('a' + i));
    bench.Submit(requests.back(), sinks[static_cast<size_t>(i)]);
  }
  size_t most = 0;
  while (bench.Step()) {
    most = std::max(most, static_cast<size_t>(bench.observer.steps.back().decode_tokens));
  }
  EXPECT_EQ(most, 4u);
  EXPECT_EQ(bench.observer.preemptions, 0);
  for (size_t i = 0; i < 4; ++i) ExpectAsReference(bench, requests[i], sinks[i]);
}

TEST(EngineCoreWindowsTest, APrefixIsKnownByItsLastWindow) {
  CoreBench bench(Options(8), {kWindow});
  const Request requests[] = {Greedy(1, Prompt(24), 4), Greedy(2, Prompt(28), 4)};
  RecordingSink sinks[2];
  bench.Submit(requests[0], sinks[0]);
  bench.Step();
  bench.Step();
  EXPECT_EQ(bench.core.store().used_blocks(), 2);
  bench.Submit(requests[1], sinks[1]);
  bench.Step();
  EXPECT_EQ(bench.core.store().used_blocks(), 2 + 1 + 1) << "they share what both still see";
  bench.RunToEnd();
  for (int i = 0; i < 2; ++i) ExpectAsReference(bench, requests[i], sinks[i]);
  EXPECT_EQ(sinks[1].summary->cached_tokens, 24);
}

TEST(EngineCoreWindowsTest, ForksGoOnFromTheWindowAndCancelledOnesGiveItBack) {
  CoreBench bench(Options(), {kWindow, 0});
  const Request forked = Sampled(1, Prompt(30), 20, 3);
  const Request cancelled = Greedy(2, Prompt(50, 3), 20);
  RecordingSink sinks[] = {RecordingSink(3), RecordingSink(1)};
  bench.Submit(forked, sinks[0]);
  bench.Submit(cancelled, sinks[1]);
  for (int i = 0; i < 3; ++i) bench.Step();
  bench.core.Cancel(2);
  bench.RunToEnd();
  ExpectAsReference(bench, forked, sinks[0]);
}

}  // namespace
}  // namespace winnow

#include "server/session/stream.h"

#include <gtest/gtest.h>

#include <atomic>
#include <optional>
#include <string>
#include <thread>

namespace winnow {
namespace {

Output Piece(const std::string& text, std::optional<FinishReason> finish = std::nullopt) {
  Output output;
  output.text = text;
  output.finish_reason = finish;
  return output;
}

class Stream : public testing::Test {
 protected:
  int ready_ = 0;
  int woken_ = 0;
  RequestStream stream_{1, /*capacity=*/2, [this] { ++ready_; }, [this] { ++woken_; }};
};

TEST_F(Stream, TellsTheWriterOnceAndOnlyIfItFoundNothing) {
  stream_.OnOutput(Piece("a"));
  EXPECT_EQ(ready_, 0);
  ASSERT_TRUE(stream_.Take().has_value());
  EXPECT_FALSE(stream_.Take().has_value());
  stream_.OnOutput(Piece("b"));
  stream_.OnOutput(Piece("c"));
  EXPECT_EQ(ready_, 1);
  const auto batch = stream_.Take();
  ASSERT_TRUE(batch.has_value());
  ASSERT_EQ(batch->outputs.size(), 2u);
  EXPECT_EQ(batch->outputs[0].text, "b");
  EXPECT_EQ(batch->outputs[1].text, "c");
}

TEST_F(Stream, HasNoRoomWhileFullAndWakesTheEngineWhenItIsEmptied) {
  stream_.OnOutput(Piece("a"));
  EXPECT_TRUE(stream_.HasRoom());
  ASSERT_TRUE(stream_.Take().has_value());
  EXPECT_EQ(woken_, 0);  // it never lacked room
  stream_.OnOutput(Piece("b"));
  stream_.OnOutput(Piece("c"));
  EXPECT_FALSE(stream_.HasRoom());
  ASSERT_TRUE(stream_.Take().has_value());
  EXPECT_TRUE(stream_.HasRoom());
  EXPECT_EQ(woken_, 1);
}

TEST_F(Stream, KeepsTheLastOutputUntilTheSummaryIsThere) {
  EXPECT_FALSE(stream_.Take().has_value());
  stream_.OnOutput(Piece("end", FinishReason::kStop));
  EXPECT_EQ(ready_, 0);
  EXPECT_FALSE(stream_.Take().has_value());
  RequestSummary summary;
  summary.generated_tokens = 1;
  stream_.OnFinished(summary);
  EXPECT_EQ(ready_, 1);
  const auto batch = stream_.Take();
  ASSERT_TRUE(batch.has_value());
  EXPECT_EQ(batch->outputs.at(0).text, "end");
  ASSERT_TRUE(batch->summary.has_value());
  EXPECT_EQ(batch->summary->generated_tokens, 1);
}

TEST_F(Stream, DropsOutputsOfAWriterThatIsGoneButKeepsTheSummary) {
  stream_.OnOutput(Piece("a"));
  stream_.OnOutput(Piece("b"));
  EXPECT_FALSE(stream_.HasRoom());
  stream_.DiscardOutputs();
  EXPECT_TRUE(stream_.HasRoom());
  stream_.OnOutput(Piece("c", FinishReason::kCancelled));
  EXPECT_FALSE(stream_.Take().has_value());
  stream_.OnFinished({});
  const auto batch = stream_.Take();
  ASSERT_TRUE(batch.has_value());
  EXPECT_TRUE(batch->outputs.empty());
  EXPECT_TRUE(batch->summary.has_value());
}

TEST(StreamOfSeveral, GoesOnUntilEveryContinuationHasEnded) {
  RequestStream stream(
      2, 4, [] {}, [] {});
  stream.OnOutput(Piece("a", FinishReason::kStop));
  EXPECT_TRUE(stream.Take().has_value());  // the other one still runs
  stream.OnOutput(Piece("b", FinishReason::kStop));
  EXPECT_FALSE(stream.Take().has_value());
}

// Under tsan this is the proof of the hand-over, including that the stream may be destroyed as soon
// as the summary is out.
TEST(StreamBetweenThreads, DeliversEverythingInOrderAndIsDestroyedByTheWriter) {
  constexpr int kOutputs = 2000;
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> signals = 0;
    std::atomic<RequestStream*> shared = nullptr;
    std::thread writer([&] {
      std::atomic<int>& ready = signals;
      auto stream = std::make_unique<RequestStream>(
          1, 4, [&ready] { ++ready; }, [] {});
      shared = stream.get();
      int received = 0;
      int seen_signals = 0;
      while (true) {
        if (const auto batch = stream->Take()) {
          for (const Output& output : batch->outputs) {
            ASSERT_EQ(output.text, std::to_string(received++));
          }
          if (batch->summary.has_value()) break;
        } else {
          while (signals == seen_signals) std::this_thread::yield();
          ++seen_signals;
        }
      }
      ASSERT_EQ(received, kOutputs);
    });
    while (shared == nullptr) std::this_thread::yield();
    RequestStream* stream = shared;
    for (int i = 0; i < kOutputs; ++i) {
      while (!stream->HasRoom()) std::this_thread::yield();
      stream->OnOutput(Piece(std::to_string(i), i + 1 == kOutputs
                                                    ? std::optional(FinishReason::kLength)
                                                    : std::nullopt));
    }
    stream->OnFinished({});
    writer.join();
  }
}

}  // namespace
}  // namespace winnow

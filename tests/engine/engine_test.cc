#include "engine/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/engine/fakes.h"

namespace winnow {
namespace {

constexpr int kVocab = CoreBench::kVocab;

/// A reader on another thread, with a bounded buffer as the server has one.
class BufferingSink : public RequestSink {
 public:
  explicit BufferingSink(size_t capacity = 1000) : capacity_(capacity) {}

  bool HasRoom() const override {
    std::lock_guard lock(mutex_);
    return buffer_.size() < capacity_;
  }
  void OnOutput(Output output) override {
    std::lock_guard lock(mutex_);
    buffer_.push_back(std::move(output));
    ++outputs_;
    changed_.notify_all();
  }
  void OnFinished(RequestSummary summary) override {
    std::lock_guard lock(mutex_);
    summary_ = std::move(summary);
    changed_.notify_all();
  }

  /// Takes what is buffered.
  std::vector<Output> Take() {
    std::lock_guard lock(mutex_);
    return std::exchange(buffer_, {});
  }
  void AwaitOutputs(int count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return outputs_ >= count; });
  }
  RequestSummary AwaitFinished() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return summary_.has_value(); });
    return *summary_;
  }
  bool finished() const {
    std::lock_guard lock(mutex_);
    return summary_.has_value();
  }
  int outputs() const {
    std::lock_guard lock(mutex_);
    return outputs_;
  }

 private:
  const size_t capacity_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Output> buffer_;
  int outputs_ = 0;
  std::optional<RequestSummary> summary_;
};

class SilentObserver : public EngineObserver {
 public:
  void OnStep(const StepStats&) override {}
  void OnGauges(const EngineGauges& gauges) override { blocks_used = gauges.kv_blocks_used; }
  void OnFinished(const RequestSummary&) override { ++finished; }
  void OnPreempted() override {}
  void OnRejected(const absl::Status&) override { ++rejected; }

  std::atomic<int> blocks_used{0};
  std::atomic<int> finished{0};
  std::atomic<int> rejected{0};
};

EngineOptions Options() {
  EngineOptions options;
  options.block_tokens = 4;
  options.kv_blocks = 64;
  options.max_context = 200;
  options.max_step_tokens = 32;
  options.max_running_sequences = 8;
  options.max_waiting_requests = 4;
  return options;
}

Request Greedy(uint64_t id, int prompt_length, int max_tokens) {
  Request request;
  request.id = id;
  for (int i = 0; i < prompt_length; ++i) {
    request.prompt_tokens.push_back((static_cast<int>(id) + 5 * i) % kVocab);
  }
  request.sampling.temperature = 0;
  request.max_tokens = max_tokens;
  request.ignore_eos = true;
  return request;
}

class EngineTest : public ::testing::Test {
 protected:
  /// Holds the engine thread inside Forward until Release.
  void HoldModel() {
    held_ = true;
    model_.before_forward = [this](const StepBatch&) {
      in_forward_ = true;
      while (held_) std::this_thread::yield();
      return absl::OkStatus();
    };
  }
  void AwaitForward() {
    while (!in_forward_) std::this_thread::yield();
  }
  void Release() { held_ = false; }

  std::string ReferenceText(const Request& request) {
    return ReferenceContinuation(request, 0, options_, model_, tokenizer_).text;
  }

  EngineOptions options_ = Options();
  LetterTokenizer tokenizer_{kVocab};
  HistoryModel model_{options_.kv_blocks, options_.block_tokens, kVocab};
  SilentObserver observer_;
  std::atomic<bool> held_{false};
  std::atomic<bool> in_forward_{false};
};

std::string TextOf(const std::vector<Output>& outputs) {
  std::string text;
  for (const Output& output : outputs) text += output.text;
  return text;
}

TEST_F(EngineTest, ManyClientsEachGetTheirOwnContinuation) {
  options_.max_waiting_requests = 100;
  Engine engine(options_, model_, model_, tokenizer_, observer_);
  std::vector<std::thread> clients;
  for (int client = 0; client < 8; ++client) {
    clients.emplace_back([&, client] {
      for (int i = 0; i < 20; ++i) {
        const Request request = Greedy(static_cast<uint64_t>(client * 100 + i), 3 + client, 10 + i);
        BufferingSink sink(3);
        ASSERT_TRUE(engine.Submit(request, &sink).ok());
        std::vector<Output> outputs;
        const bool cancels = i % 5 == 4;
        if (cancels) engine.Cancel(request.id);
        while (!sink.finished()) {
          for (Output& output : sink.Take()) outputs.push_back(std::move(output));
          engine.Wake();
          std::this_thread::yield();
        }
        for (Output& output : sink.Take()) outputs.push_back(std::move(output));
        const absl::Status status = sink.AwaitFinished().status;
        if (cancels && !status.ok()) {
          EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
        } else {
          EXPECT_EQ(TextOf(outputs), ReferenceText(request));
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(observer_.finished, 160);
  EXPECT_EQ(model_.corruptions(), 0);
}

TEST_F(EngineTest, FullQueueRefusesTheNextRequestOnly) {
  HoldModel();
  Engine engine(options_, model_, model_, tokenizer_, observer_);
  std::vector<std::unique_ptr<BufferingSink>> sinks;
  const auto submit = [&](uint64_t id) {
    sinks.push_back(std::make_unique<BufferingSink>());
    return engine.Submit(Greedy(id, 3, 5), sinks.back().get());
  };
  ASSERT_TRUE(submit(0).ok());
  AwaitForward();  // the first is admitted; the engine is busy
  int accepted = 0;
  // It counts as waiting until its first step is over.
  while (submit(static_cast<uint64_t>(accepted) + 1).ok()) ++accepted;
  EXPECT_GE(accepted, options_.max_waiting_requests - 1);
  EXPECT_LE(accepted, options_.max_waiting_requests);
  BufferingSink refused;
  EXPECT_EQ(engine.Submit(Greedy(99, 3, 5), &refused).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(observer_.rejected, 2);
  Release();
  for (int i = 0; i <= accepted; ++i) {
    EXPECT_TRUE(sinks[static_cast<size_t>(i)]->AwaitFinished().status.ok());
  }
  EXPECT_TRUE(submit(50).ok());
  sinks.back()->AwaitFinished();
}

TEST_F(EngineTest, WhoGetsATokenFindsTheQueueAsItIsSince) {
  /// Submits another request with the first token.
  class Successive : public BufferingSink {
   public:
    void OnOutput(Output output) override {
      if (next && !submitted.has_value()) submitted = next();
      BufferingSink::OnOutput(std::move(output));
    }
    std::function<absl::Status()> next;
    std::optional<absl::Status> submitted;
  };
  options_.max_waiting_requests = 1;
  Engine engine(options_, model_, model_, tokenizer_, observer_);
  Successive first;
  BufferingSink second;
  first.next = [&] { return engine.Submit(Greedy(2, 3, 5), &second); };
  ASSERT_TRUE(engine.Submit(Greedy(1, 3, 5), &first).ok());
  EXPECT_TRUE(first.AwaitFinished().status.ok());
  ASSERT_EQ(first.submitted, absl::OkStatus()) << "the first one does not wait any more";
  EXPECT_TRUE(second.AwaitFinished().status.ok());
}

TEST_F(EngineTest, InvalidRequestIsRefusedAtOnce) {
  Engine engine(options_, model_, model_, tokenizer_, observer_);
  BufferingSink sink;
  EXPECT_EQ(engine.Submit(Greedy(1, 200, 5), &sink).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(observer_.rejected, 1);
}

TEST_F(EngineTest, SlowReaderIsWokenWhenItHasRoomAgain) {
  Engine engine(options_, model_, model_, tokenizer_, observer_);
  const Request request = Greedy(1, 3, 20);
  BufferingSink sink(2);
  ASSERT_TRUE(engine.Submit(request, &sink).ok());
  std::vector<Output> outputs;
  for (int expected = 2; expected <= 20; expected += 2) {
    sink.AwaitOutputs(expected);
    EXPECT_EQ(sink.outputs(), expected) << "computed on without room";
    for (Output& output : sink.Take()) outputs.push_back(std::move(output));
    engine.Wake();
  }
  EXPECT_TRUE(sink.AwaitFinished().status.ok());
  EXPECT_EQ(TextOf(outputs), ReferenceText(request));
}

TEST_F(EngineTest, DeadlineEndsARequestWhoseReaderSleeps) {
  Engine engine(options_, model_, model_, tokenizer_, observer_);
  Request request = Greedy(1, 3, 100);
  request.deadline = absl::Now() + absl::Milliseconds(50);
  BufferingSink sink(1);
  ASSERT_TRUE(engine.Submit(request, &sink).ok());
  const RequestSummary summary = sink.AwaitFinished();
  EXPECT_EQ(summary.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_GE(absl::Now(), request.deadline);
}

TEST_F(EngineTest, CancelFreesABlockedRequest) {
  Engine engine(options_, model_, model_, tokenizer_, observer_);
  BufferingSink sink(1);
  ASSERT_TRUE(engine.Submit(Greedy(1, 30, 100), &sink).ok());
  sink.AwaitOutputs(1);
  engine.Cancel(1);
  EXPECT_EQ(sink.AwaitFinished().status.code(), absl::StatusCode::kCancelled);
  while (observer_.blocks_used != 0) std::this_thread::yield();
}

TEST_F(EngineTest, DrainFinishesWhatRunsAndRefusesWhatIsNew) {
  HoldModel();
  Engine engine(options_, model_, model_, tokenizer_, observer_);
  BufferingSink running;
  ASSERT_TRUE(engine.Submit(Greedy(1, 3, 10), &running).ok());
  AwaitForward();
  EXPECT_FALSE(engine.drained());
  engine.Drain(absl::Seconds(60));
  BufferingSink late;
  EXPECT_EQ(engine.Submit(Greedy(2, 3, 10), &late).code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(engine.drained());
  Release();
  EXPECT_TRUE(running.AwaitFinished().status.ok());
  while (!engine.drained()) std::this_thread::yield();
}

TEST_F(EngineTest, IdleEngineDrainsAtOnce) {
  Engine engine(options_, model_, model_, tokenizer_, observer_);
  engine.Drain(absl::Seconds(60));
  while (!engine.drained()) std::this_thread::yield();
}

TEST_F(EngineTest, DrainEndsWhatIsLeftAtItsLimit) {
  Engine engine(options_, model_, model_, tokenizer_, observer_);
  BufferingSink sink(1);
  ASSERT_TRUE(engine.Submit(Greedy(1, 3, 100), &sink).ok());
  sink.AwaitOutputs(1);
  engine.Drain(absl::Milliseconds(20));
  EXPECT_EQ(sink.AwaitFinished().status.code(), absl::StatusCode::kUnavailable);
  while (!engine.drained()) std::this_thread::yield();
}

TEST_F(EngineTest, DestructorCancelsWhatIsStillRunning) {
  BufferingSink blocked(1);
  BufferingSink queued(1);
  {
    Engine engine(options_, model_, model_, tokenizer_, observer_);
    ASSERT_TRUE(engine.Submit(Greedy(1, 3, 100), &blocked).ok());
    blocked.AwaitOutputs(1);
    ASSERT_TRUE(engine.Submit(Greedy(2, 3, 100), &queued).ok());
  }
  EXPECT_EQ(blocked.AwaitFinished().status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(queued.AwaitFinished().status.code(), absl::StatusCode::kCancelled);
}

TEST_F(EngineTest, DeviceErrorMakesTheEngineUnhealthy) {
  model_.before_forward = [](const StepBatch&) { return absl::InternalError("smoke"); };
  Engine engine(options_, model_, model_, tokenizer_, observer_);
  EXPECT_TRUE(engine.healthy());
  BufferingSink sink;
  ASSERT_TRUE(engine.Submit(Greedy(1, 3, 100), &sink).ok());
  EXPECT_EQ(sink.AwaitFinished().status.code(), absl::StatusCode::kUnavailable);
  while (engine.healthy()) std::this_thread::yield();
  BufferingSink late;
  EXPECT_EQ(engine.Submit(Greedy(2, 3, 10), &late).code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace winnow

// Sessions with the real engine, a model that needs no file, and a front without a protocol.

#include "server/session/generation_session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "server/observability/log_thread.h"
#include "tests/server/alphabet_model.h"
#include "tests/server/fake_tokenizer.h"
#include "tests/server/notification.h"
#include "tests/server/unread_pipe.h"

namespace winnow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kTrace[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

EngineOptions Options() {
  EngineOptions options;
  options.block_tokens = 32;
  options.kv_blocks = 64;
  options.max_context = 2000;
  options.max_running_sequences = 2;
  options.max_waiting_requests = 3;
  return options;
}

Request Prompt(const std::string& text, int max_tokens) {
  Request request;
  request.prompt_tokens.assign(text.begin(), text.end());
  request.sampling.temperature = 0;
  request.max_tokens = max_tokens;
  return request;
}

/// Takes what comes, as fast as it comes, or one batch and no more until it is told that a client
/// has read it.
class TestFront final : public GenerationFront {
 public:
  explicit TestFront(Request request) : request_(std::move(request)) {}

  std::vector<FieldViolation> Parse() override {
    steps.push_back("parse");
    return malformed;
  }
  std::string Model() const override {
    steps.push_back("model");
    return model;
  }
  Request Outline() const override {
    steps.push_back("outline");
    Request outline;
    outline.max_tokens = request_.max_tokens;
    return outline;
  }
  size_t TextBytes() const override { return text_bytes; }
  std::vector<FieldViolation> Decode(const std::atomic<bool>& cancelled,
                                     Request* request) override {
    if (before_decode) before_decode(cancelled);
    steps.push_back("decode");
    *request = request_;
    return violations;
  }
  void OnReady() override {
    while (std::optional<GenerationSession::Batch> batch = session->Take()) {
      for (const Output& output : batch->outputs) text += output.text;
      if (batch->end.has_value()) {
        end = *std::move(batch->end);
        summary = std::move(batch->summary);
        return ended.Notify();
      }
      const bool goes_on = reads;  // who waits for the first output may change it then
      if (!first.HasBeenNotified()) first.Notify();
      if (!goes_on) return;
      session->OnWriteDone(/*ok=*/true);
    }
  }

  /// Runs the call to its end.
  CallStatus Run(SessionContext& context, IncomingCall call) {
    session = std::make_unique<GenerationSession>(context, std::move(call), *this);
    session->Start();
    ended.WaitForNotification();
    session.reset();
    return end;
  }

  std::string model;
  size_t text_bytes = 10;
  std::function<void(const std::atomic<bool>& cancelled)> before_decode;
  std::vector<FieldViolation> malformed;   ///< what Parse finds
  std::vector<FieldViolation> violations;  ///< what Decode finds
  bool reads = true;
  mutable std::vector<std::string> steps;  ///< what it was asked, in order
  std::unique_ptr<GenerationSession> session;
  std::string text;
  CallStatus end;
  std::optional<RequestSummary> summary;
  Notification first;  ///< output has come
  Notification ended;

 private:
  const Request request_;
};

class GenerationSessionTest : public testing::Test {
 protected:
  /// A call with bearer tokens, as `authenticator_` wants one.
  static IncomingCall Call(std::vector<std::string> tokens = {"Bearer secret"}) {
    return {.method = "Generate",
            .credentials = {.authorization = std::move(tokens),
                            .certificate_name = "",
                            .peer_address = "ipv4:192.0.2.7"},
            .deadline = absl::InfiniteFuture(),
            .traceparent = "",
            .abort = {}};
  }
  /// Tokens that cost Alice minutes of her quota.
  static constexpr int kMinutes = 600;

  /// How a short request of Alice's ends.
  absl::Status Short(int prompt_tokens = 1, int max_tokens = 1) {
    TestFront front(Prompt(std::string(static_cast<size_t>(prompt_tokens), 'x'), max_tokens));
    return front.Run(context_, Call()).status;
  }

  /// Knows Alice, who has a quota, by "secret", and a guest without limits by "guest".
  static std::unique_ptr<Authenticator> MakeAuthenticator() {
    const auto digest = [](const char* token) {
      const Sha256Digest bytes = Sha256(token);
      return absl::BytesToHexString({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    };
    const std::string path = std::filesystem::path(testing::TempDir()) / "session_test_tokens";
    std::ofstream(path) << "alice: sha256=" << digest("secret")
                        << " requests=1 tokens-per-minute=100\n"
                        << "guest: sha256=" << digest("guest") << "\n";
    return *Authenticator::Open(path);
  }
  bool MetricIs(const std::string& line) const {
    return metrics_.Text().find("\n" + line + "\n") != std::string::npos;
  }

  AlphabetModel model_;
  FakeTokenizer tokenizer_;
  const ServedModel served_ = {.name = "alphabet",
                               .title = "",
                               .architecture = "",
                               .context_tokens = Options().max_context,
                               .max_sequences = 2,
                               .attention = {},
                               .tokenizer = &tokenizer_,
                               .chat = {}};
  MetricsExporter metrics_{"alphabet", "fake", {}};
  Engine engine_{Options(), model_, model_, tokenizer_, metrics_};
  const std::unique_ptr<Authenticator> authenticator_ = MakeAuthenticator();
  SessionContext context_{
      .model = served_, .engine = engine_, .metrics = metrics_, .authenticator = *authenticator_};
};

TEST_F(GenerationSessionTest, HandsOutTheTextAndThenWhatItTook) {
  TestFront front(Prompt("x", 4));
  EXPECT_EQ(front.Run(context_, Call()).status, absl::OkStatus());
  EXPECT_EQ(front.text, "yzab");
  ASSERT_TRUE(front.summary.has_value());
  EXPECT_EQ(front.summary->prompt_tokens, 1);
  EXPECT_EQ(front.summary->generated_tokens, 4);
  EXPECT_THAT(front.steps, ElementsAre("parse", "model", "outline", "decode"));
  EXPECT_TRUE(MetricIs("winnow_rpcs_total{code=\"OK\",method=\"Generate\"} 1"));
  EXPECT_TRUE(MetricIs("winnow_continuations_total{finish_reason=\"length\"} 1"));
  EXPECT_EQ(context_.open_calls, 0);
}

TEST_F(GenerationSessionTest, ChecksWhoCallsThenTheFormThenTheModelThenRoomThenTheContent) {
  engine_.Drain(absl::ZeroDuration());
  TestFront stranger(Prompt("x", 4));
  stranger.model = "other";
  stranger.violations = {{"n", "must be 1"}, {"text", "must be set"}};
  EXPECT_TRUE(absl::IsUnauthenticated(stranger.Run(context_, Call({})).status));
  EXPECT_THAT(stranger.steps, IsEmpty());
  for (const auto& tokens :
       {std::vector<std::string>{"secret"}, {"Bearer other"}, {"Bearer secret", "Bearer secret"}}) {
    TestFront other(Prompt("x", 4));
    EXPECT_TRUE(absl::IsUnauthenticated(other.Run(context_, Call(tokens)).status));
  }

  TestFront malformed(Prompt("x", 4));
  malformed.model = "other";
  malformed.malformed = {{"text", "must be UTF-8"}};
  EXPECT_EQ(malformed.Run(context_, Call()).status,
            absl::InvalidArgumentError("text: must be UTF-8"));
  EXPECT_THAT(malformed.steps, ElementsAre("parse"));

  TestFront misnamed(Prompt("x", 4));
  misnamed.model = "other";
  misnamed.violations = stranger.violations;
  EXPECT_TRUE(absl::IsNotFound(misnamed.Run(context_, Call()).status));
  EXPECT_THAT(misnamed.steps, ElementsAre("parse", "model"));

  TestFront late(Prompt("x", 4));
  late.violations = stranger.violations;
  EXPECT_TRUE(absl::IsUnavailable(late.Run(context_, Call()).status));
  EXPECT_THAT(late.steps, ElementsAre("parse", "model", "outline"));
}

TEST_F(GenerationSessionTest, RefusesAMessageThatIsWrongBeforeItCostsAnything) {
  TestFront wrong(Prompt(std::string(100, 'x'), 4));
  wrong.violations = {{"n", "must be 1"}, {"text", "must be set"}};
  const CallStatus end = wrong.Run(context_, Call());
  EXPECT_TRUE(absl::IsInvalidArgument(end.status));
  EXPECT_EQ(std::string(end.status.message()), "n: must be 1; text: must be set");
  ASSERT_EQ(end.violations.size(), 2u);
  EXPECT_EQ(end.violations[1].field, "text");
  EXPECT_EQ(Short(), absl::OkStatus());
}

TEST_F(GenerationSessionTest, ARequestThatTheEngineRefusesCostsNothing) {
  Request impossible = Prompt(std::string(100, 'x'), 1);
  impossible.n = 3;
  TestFront front(impossible);
  EXPECT_TRUE(absl::IsInvalidArgument(front.Run(context_, Call()).status));
  EXPECT_EQ(Short(100, kMinutes), absl::OkStatus());
  EXPECT_TRUE(absl::IsResourceExhausted(Short()));
}

TEST_F(GenerationSessionTest, AClientOverItsQuotaIsRefusedBeforeItsMessageCostsAnything) {
  TestFront front(Prompt("x", kMinutes));
  EXPECT_EQ(front.Run(context_, Call()).status, absl::OkStatus());
  TestFront spent(Prompt("x", 1));
  EXPECT_TRUE(absl::IsResourceExhausted(spent.Run(context_, Call()).status));
  EXPECT_THAT(spent.steps, ElementsAre("parse", "model", "outline"));
}

TEST_F(GenerationSessionTest, ARequestThatNeverRanCostsNothingHoweverItEnds) {
  // A guest's request is held in its step, so that nothing else is started.
  Notification in_step, may_go_on;
  model_.before_step = [&] {
    if (!in_step.HasBeenNotified()) in_step.Notify();
    may_go_on.WaitForNotification();
  };
  const auto start = [&](TestFront& front, IncomingCall call) {
    front.session = std::make_unique<GenerationSession>(context_, std::move(call), front);
    front.session->Start();
  };
  TestFront guest(Prompt("x", 1)), cancelled(Prompt(std::string(100, 'x'), 1)),
      expired(Prompt(std::string(100, 'x'), 1));
  start(guest, Call({"Bearer guest"}));
  in_step.WaitForNotification();
  start(cancelled, Call());
  cancelled.session->Cancel();
  may_go_on.Notify();
  cancelled.ended.WaitForNotification();
  EXPECT_TRUE(absl::IsCancelled(cancelled.end.status));
  IncomingCall late = Call();
  late.deadline = absl::Now() - absl::Seconds(1);
  start(expired, std::move(late));
  expired.ended.WaitForNotification();
  EXPECT_FALSE(expired.end.status.ok());
  guest.ended.WaitForNotification();
  EXPECT_EQ(Short(100, kMinutes), absl::OkStatus());
  EXPECT_TRUE(absl::IsResourceExhausted(Short())) << "that one ran";
}

TEST_F(GenerationSessionTest, AQuotaIsSpentByWhatWasGeneratedAndSaysWhenThereIsMore) {
  TestFront front(Prompt("x", kMinutes));
  EXPECT_EQ(front.Run(context_, Call()).status, absl::OkStatus());
  TestFront spent(Prompt("x", 1));
  const CallStatus end = spent.Run(context_, Call());
  EXPECT_TRUE(absl::IsResourceExhausted(end.status));
  EXPECT_EQ(std::string(end.status.message()), "this client may take 100 tokens a minute");
  ASSERT_TRUE(end.retry_after.has_value());
  EXPECT_GT(*end.retry_after, absl::Seconds(10));
}

TEST_F(GenerationSessionTest, ACancelledCallEndsAndFreesItsPlace) {
  TestFront front(Prompt("x", 1900));
  front.reads = false;
  front.session = std::make_unique<GenerationSession>(context_, Call(), front);
  front.session->Start();
  front.first.WaitForNotification();
  EXPECT_EQ(context_.open_calls, 1);
  EXPECT_TRUE(absl::IsResourceExhausted(Short())) << "one at a time";
  front.session->Cancel();
  front.session->OnWriteDone(/*ok=*/true);
  front.reads = true;
  front.OnReady();
  front.ended.WaitForNotification();
  EXPECT_TRUE(absl::IsCancelled(front.end.status));
  EXPECT_FALSE(front.summary.has_value());
  EXPECT_TRUE(MetricIs("winnow_rpcs_total{code=\"CANCELLED\",method=\"Generate\"} 1"));
  EXPECT_TRUE(MetricIs("winnow_continuations_total{finish_reason=\"cancelled\"} 1"));
  front.session.reset();
  EXPECT_EQ(context_.open_calls, 0);
}

TEST_F(GenerationSessionTest, ACallThatItsClientResetsAtTheDeadlineHasExpired) {
  // A guest's request is held in its step: the engine hears of the resets before it looks at
  // deadlines.
  Notification in_step, may_go_on;
  model_.before_step = [&] {
    if (!in_step.HasBeenNotified()) in_step.Notify();
    may_go_on.WaitForNotification();
  };
  TestFront guest(Prompt("x", 1)), at_deadline(Prompt("x", 1)), before(Prompt("x", 1));
  const auto start = [&](TestFront& front, absl::Duration left) {
    IncomingCall call = Call({"Bearer guest"});
    call.deadline = absl::Now() + left;
    front.session = std::make_unique<GenerationSession>(context_, std::move(call), front);
    front.session->Start();
  };
  start(guest, absl::Hours(1));
  in_step.WaitForNotification();
  start(at_deadline, absl::Milliseconds(20));
  start(before, absl::Hours(1));
  at_deadline.session->Cancel();
  before.session->Cancel();
  may_go_on.Notify();
  for (TestFront* front : {&guest, &at_deadline, &before}) front->ended.WaitForNotification();
  EXPECT_EQ(at_deadline.end.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(before.end.status.code(), absl::StatusCode::kCancelled);
}

TEST_F(GenerationSessionTest, ALongTextHoldsUpNeitherItsCallersThreadNorShortOnes) {
  Notification may_go_on;
  std::thread::id where;
  TestFront front(Prompt("x", 4));
  front.text_bytes = 1 << 20;
  front.before_decode = [&](const std::atomic<bool>&) {
    where = std::this_thread::get_id();
    may_go_on.WaitForNotification();
  };
  front.session = std::make_unique<GenerationSession>(context_, Call({"Bearer guest"}), front);
  front.session->Start();
  EXPECT_EQ(Short(), absl::OkStatus());
  EXPECT_FALSE(front.ended.HasBeenNotified());
  may_go_on.Notify();
  front.ended.WaitForNotification();
  EXPECT_EQ(front.end.status, absl::OkStatus());
  EXPECT_EQ(front.text, "yzab");
  EXPECT_NE(where, std::this_thread::get_id());
}

TEST_F(GenerationSessionTest, ACallMayBeCancelledWhileItsTextIsTokenized) {
  TestFront front(Prompt("x", 4));
  front.text_bytes = 1 << 20;
  Notification in_decode;
  front.before_decode = [&](const std::atomic<bool>& cancelled) {
    in_decode.Notify();
    while (!cancelled) std::this_thread::yield();
  };
  front.session = std::make_unique<GenerationSession>(context_, Call(), front);
  front.session->Start();
  in_decode.WaitForNotification();
  front.session->Cancel();
  front.ended.WaitForNotification();
  EXPECT_TRUE(absl::IsCancelled(front.end.status));
  EXPECT_TRUE(MetricIs("winnow_rpcs_total{code=\"CANCELLED\",method=\"Generate\"} 1"));
  EXPECT_EQ(Short(100), absl::OkStatus()) << "it cost nothing";
}

TEST_F(GenerationSessionTest, TextsBeyondWhatMayWaitAreRefusedWithADelay) {
  Notification may_go_on;
  std::vector<std::unique_ptr<TestFront>> fronts;
  CallStatus refused;
  while (refused.status.ok()) {
    ASSERT_LT(fronts.size(), 1000u) << "nothing was refused";
    fronts.push_back(std::make_unique<TestFront>(Prompt("x", 1)));
    TestFront& front = *fronts.back();
    front.text_bytes = 4 << 20;
    front.before_decode = [&](const std::atomic<bool>&) { may_go_on.WaitForNotification(); };
    front.session = std::make_unique<GenerationSession>(context_, Call({"Bearer guest"}), front);
    front.session->Start();
    if (front.ended.HasBeenNotified()) refused = front.end;
  }
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status));
  EXPECT_TRUE(refused.retry_after.has_value());
  EXPECT_EQ(Short(), absl::OkStatus());
  may_go_on.Notify();
  for (const auto& front : fronts) front->ended.WaitForNotification();
}

TEST_F(GenerationSessionTest, AClientThatStopsReadingIsCutOff) {
  TestFront front(Prompt("x", 1900));
  front.reads = false;
  std::vector<std::string> aborted;
  IncomingCall call = Call();
  call.abort = [&](const std::string& message) {  // as a transport does it
    aborted.push_back(message);
    front.session->Cancel();
    front.session->OnWriteDone(/*ok=*/false);
    front.OnReady();
  };
  front.session = std::make_unique<GenerationSession>(context_, std::move(call), front);
  front.session->Start();
  front.first.WaitForNotification();
  context_.slow_readers.CutOff(absl::Minutes(1), absl::Now());
  EXPECT_THAT(aborted, IsEmpty());
  context_.slow_readers.CutOff(absl::Minutes(1), absl::Now() + absl::Hours(1));
  EXPECT_THAT(aborted, ElementsAre("the client has read nothing for 60 seconds"));
  front.ended.WaitForNotification();
  EXPECT_TRUE(absl::IsAborted(front.end.status));
  EXPECT_TRUE(MetricIs("winnow_rpcs_total{code=\"ABORTED\",method=\"Generate\"} 1"));
}

TEST_F(GenerationSessionTest, ALogThatNobodyReadsStopsNoCall) {
  const UnreadPipe pipe;
  const LogThread thread;
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Short(), absl::OkStatus());
}

TEST_F(GenerationSessionTest, LogsWhoCalledAndHowItEndedAndNothingOfWhatWasSaid) {
  testing::internal::CaptureStderr();
  IncomingCall call = Call();
  call.traceparent = kTrace;
  TestFront front(Prompt("xyzzy", 2));
  front.Run(context_, call);
  TestFront wrong(Prompt("xyzzy", 2));
  wrong.violations = {{"n", "must not be xyzzy"}, {"stop.strings[2]", "must not be xyzzy"}};
  wrong.Run(context_, call);
  TestFront stranger(Prompt("xyzzy", 2));
  stranger.Run(context_, Call({"Bearer xyzzy"}));
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr("level=info event=request method=Generate id=1 client=token:alice "
                             "trace_id=0af7651916cd43dd8448eb211c80319c span_id=b7ad6b7169203331 "
                             "code=OK prompt_tokens=5 cached_tokens=0 generated_tokens=2 "
                             "preemptions=0 queue_seconds="));
  EXPECT_THAT(log, HasSubstr("event=refused method=Generate client=token:alice "
                             "trace_id=0af7651916cd43dd8448eb211c80319c span_id=b7ad6b7169203331 "
                             "code=INVALID_ARGUMENT reason=\"n stop.strings[2]\"\n"));
  EXPECT_THAT(log,
              HasSubstr("event=refused method=Generate client=ipv4:192.0.2.7 "
                        "code=UNAUTHENTICATED reason=\"the bearer token is not a known one\""));
  EXPECT_THAT(log, Not(HasSubstr("xyzzy")));
}

}  // namespace
}  // namespace winnow

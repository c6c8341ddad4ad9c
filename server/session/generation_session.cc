#include "server/session/generation_session.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/observability/log.h"
#include "server/observability/trace_context.h"

namespace winnow {
namespace {

/// Outputs of one request that wait for a slow client before the request is paused.
constexpr size_t kStreamCapacity = 64;

/// "stop.strings[2] n": what log lines may say of a request, unlike what its fields hold.
std::string FieldNames(const std::vector<FieldViolation>& violations) {
  std::string names;
  for (const FieldViolation& violation : violations) {
    absl::StrAppend(&names, names.empty() ? "" : " ", violation.field);
  }
  return names;
}

std::string Code(const CallStatus& end) { return absl::StatusCodeToString(end.status.code()); }

}  // namespace

GenerationSession::GenerationSession(SessionContext& context, IncomingCall call,
                                     GenerationFront& front)
    : context_(context),
      call_(std::move(call)),
      front_(front),
      request_id_(++context.last_request_id) {
  ++context_.open_calls;
  if (call_.abort) writes_.emplace(context_.slow_readers, call_.abort);
}

GenerationSession::~GenerationSession() { --context_.open_calls; }

void GenerationSession::Start() {
  if (std::optional<TraceContext> trace = ParseTraceparent(call_.traceparent)) {
    trace_id_ = std::move(trace->trace_id);
    span_id_ = std::move(trace->span_id);
  }
  client_.identity = call_.credentials.peer_address;  // until it is known better
  absl::StatusOr<Client> client = context_.authenticator.Authenticate(call_.credentials);
  if (!client.ok()) return Refuse(EndOf(client.status()), std::string(client.status().message()));
  client_ = *std::move(client);
  if (std::vector<FieldViolation> violations = front_.Parse(); !violations.empty()) {
    return RefuseInvalid(std::move(violations));
  }
  if (absl::Status status = CheckModelName(front_.Model(), context_.model); !status.ok()) {
    return Refuse(EndOf(status), "model");
  }
  Request outline = front_.Outline();
  outline.client = client_.identity;
  outline.deadline = call_.deadline;
  if (absl::Status status = context_.engine.CheckOutline(outline); !status.ok()) {
    return Refuse(EndOf(status), std::string(status.message()));
  }
  if (client_.quota != nullptr) {
    if (const auto refusal = client_.quota->Begin(started_)) return RefuseOverQuota(*refusal);
    has_quota_ = true;
  }
  if (!context_.texts.Run(client_.identity, front_.TextBytes(), [this] { Decode(); })) {
    const CallStatus end = TooMuchText();
    return Refuse(end, std::string(end.status.message()));
  }
}

void GenerationSession::Decode() {
  Request request;
  std::vector<FieldViolation> violations = front_.Decode(cancelled_, &request);
  if (cancelled_) return Refuse(EndOf(Cancelled()), "cancelled before it was tokenized");
  if (!violations.empty()) return RefuseInvalid(std::move(violations));
  request.id = request_id_;
  request.client = client_.identity;
  request.deadline = call_.deadline;
  unfinished_ = request.n;
  if (has_quota_) {
    const auto prompt_tokens = static_cast<int64_t>(request.prompt_tokens.size());
    const auto refusal = client_.quota->Charge(prompt_tokens, absl::Now());
    if (refusal.has_value()) return RefuseOverQuota(*refusal);
    charged_tokens_ = prompt_tokens;
  }

  stream_.emplace(
      request.n, kStreamCapacity, [this] { context_.delivery.Post([this] { front_.OnReady(); }); },
      [engine = &context_.engine] { engine->Wake(); });
  if (absl::Status status = context_.engine.Submit(std::move(request), &*stream_); !status.ok()) {
    return Refuse(EndOf(status), std::string(status.message()));
  }
  if (cancelled_) context_.engine.Cancel(request_id_);  // Cancel may have come before Submit
  front_.OnReady();
}

void GenerationSession::Cancel() {
  cancelled_ = true;
  context_.engine.Cancel(request_id_);
}

void GenerationSession::GiveUp(absl::Status reason) {
  given_up_ = std::move(reason);
  Cancel();
}

std::optional<GenerationSession::Batch> GenerationSession::Take() {
  Batch batch;
  if (refusal_.has_value()) {
    batch.end = std::exchange(refusal_, std::nullopt);
    return batch;
  }
  std::optional<RequestStream::Batch> taken = stream_->Take();
  if (!taken.has_value()) return std::nullopt;
  batch.outputs = std::move(taken->outputs);
  for (const Output& output : batch.outputs) {
    if (!output.finish_reason.has_value() || output.finish_reason == FinishReason::kCancelled) {
      continue;
    }
    context_.metrics.OnContinuation(*output.finish_reason);
    --unfinished_;
  }
  if (!batch.outputs.empty() && writes_.has_value()) writes_->OnWrite();
  if (taken->summary.has_value()) {
    batch.end = Ended(*taken->summary);
    if (batch.end->status.ok()) batch.summary = std::move(taken->summary);
  }
  return batch;
}

void GenerationSession::OnWriteDone(bool ok) {
  if (writes_.has_value()) writes_->OnWriteDone();
  if (ok) return;
  stream_->DiscardOutputs();
  Cancel();
}

// How to end the call once the engine is done with it. Writes its line into the log.
CallStatus GenerationSession::Ended(const RequestSummary& summary) {
  CallStatus end = EndOf(summary.status);
  if (!given_up_.ok()) {
    end = EndOf(given_up_);
  } else if (absl::IsCancelled(end.status)) {
    end.status = Cancelled();
  }
  EndQuota(summary.started ? summary.generated_tokens : -charged_tokens_);
  for (; unfinished_ > 0; --unfinished_) {
    context_.metrics.OnContinuation(FinishReason::kCancelled);
  }
  context_.metrics.OnCall(call_.method, Code(end));
  Log(LogLevel::kInfo, "request",
      {{"method", call_.method},
       {"id", request_id_},
       {"client", client_.identity},
       {"trace_id", trace_id_},
       {"span_id", span_id_},
       {"code", Code(end)},
       {"prompt_tokens", summary.prompt_tokens},
       {"cached_tokens", summary.cached_tokens},
       {"generated_tokens", summary.generated_tokens},
       {"preemptions", summary.preemptions},
       {"queue_seconds", summary.queue_seconds},
       {"ttft_seconds", summary.ttft_seconds},
       {"total_seconds", summary.total_seconds}});
  return end;
}

// Why the call was cancelled. A client resets a call that has expired, most often before the
// deadline passes here: it took the request time to arrive, and gRPC sends timeouts rounded up.
absl::Status GenerationSession::Cancelled() const {
  if (writes_.has_value() && writes_->cut_off()) {
    return absl::AbortedError("the client has stopped reading");
  }
  const bool expired =
      call_.deadline != absl::InfiniteFuture() &&
      call_.deadline - absl::Now() < absl::Milliseconds(50) + (call_.deadline - started_) / 50;
  return expired ? absl::DeadlineExceededError("the call's deadline has passed")
                 : absl::CancelledError("the request was cancelled");
}

// The call is over for the client's quota, which is charged so many tokens more.
void GenerationSession::EndQuota(int64_t tokens) {
  if (has_quota_) client_.quota->End(tokens, absl::Now());
}

void GenerationSession::RefuseOverQuota(const ClientQuota::Refusal& refusal) {
  Refuse(OverQuota(refusal), "over the client's quota");
}

void GenerationSession::RefuseInvalid(std::vector<FieldViolation> violations) {
  const std::string names = FieldNames(violations);
  Refuse(Invalid(std::move(violations)), names);
}

// Ends a call that the engine never took. `reason` goes into the log and holds nothing of what the
// request says.
void GenerationSession::Refuse(CallStatus end, const std::string& reason) {
  EndQuota(-charged_tokens_);
  context_.metrics.OnCall(call_.method, Code(end));
  Log(LogLevel::kInfo, "refused",
      {{"method", call_.method},
       {"client", client_.identity},
       {"trace_id", trace_id_},
       {"span_id", span_id_},
       {"code", Code(end)},
       {"reason", reason}});
  refusal_ = std::move(end);
  front_.OnReady();
}

}  // namespace winnow

#include "server/grpc/grpc_service.h"

#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "server/grpc/request_validation.h"
#include "server/grpc/response.h"
#include "server/grpc/status_mapping.h"
#include "server/observability/log.h"
#include "server/observability/trace_context.h"
#include "server/session/stream.h"

namespace winnow {
namespace {

/// Outputs of one request that wait for a slow client before the request is paused.
constexpr size_t kStreamCapacity = 64;

absl::Time DeadlineOf(const grpc::CallbackServerContext& call) {
  const auto deadline = call.deadline();
  return deadline == std::chrono::system_clock::time_point::max() ? absl::InfiniteFuture()
                                                                  : absl::FromChrono(deadline);
}

/// Where the call belongs in its caller's trace, if it says so once and correctly.
std::optional<TraceContext> TraceOf(const grpc::CallbackServerContext& call) {
  const auto [first, last] = call.client_metadata().equal_range("traceparent");
  if (first == last || std::next(first) != last) return std::nullopt;
  return ParseTraceparent({first->second.data(), first->second.size()});
}

/// "stop.strings[2] n": what log lines may say of a request, unlike what its fields hold.
std::string FieldNames(const std::vector<FieldViolation>& violations) {
  std::string names;
  for (const FieldViolation& violation : violations) {
    absl::StrAppend(&names, names.empty() ? "" : " ", violation.field);
  }
  return names;
}

/// What the streaming and the unary call have in common: validation, the engine's stream of
/// outputs, cancellation, and the record of how it ended. `Reactor` is gRPC's base class.
///
/// Threads: Start runs before gRPC reacts. Afterwards Deliver runs in one thread at a time, the
/// delivery thread or gRPC's, because the stream hands its contents to one taker. OnCancel may run
/// beside it.
template <typename Reactor>
class GenerationCall : public Reactor {
 public:
  GenerationCall(ServiceContext& context, const char* method) : context_(context), method_(method) {
    ++context_.open_calls;
  }
  ~GenerationCall() override { --context_.open_calls; }

  void Start(const grpc::CallbackServerContext& call, const v1::GenerateRequest& message) {
    if (std::optional<TraceContext> trace = TraceOf(call)) {
      trace_id_ = std::move(trace->trace_id);
      span_id_ = std::move(trace->span_id);
    }
    client_.identity = PeerAddress(call);  // until it is known better
    absl::StatusOr<Client> client = context_.authenticator.Authenticate(call);
    if (!client.ok()) return Refuse(ToGrpcStatus(client.status()), client.status().message());
    client_ = *std::move(client);
    if (absl::Status status = CheckModelName(message.model(), context_.model); !status.ok()) {
      return Refuse(ToGrpcStatus(status), "model");
    }
    deadline_ = DeadlineOf(call);
    Request outline = Outline(message, context_.model);
    outline.client = client_.identity;
    outline.deadline = deadline_;
    if (absl::Status status = context_.engine.CheckOutline(outline); !status.ok()) {
      return Refuse(ToGrpcStatus(status), status.message());
    }
    Request request;
    const std::vector<FieldViolation> violations =
        ValidateGenerate(message, context_.model, &request);
    if (!violations.empty()) return Refuse(BadRequest(violations), FieldNames(violations));
    request.id = request_id_ = ++context_.last_request_id;
    request.client = std::move(outline.client);
    request.deadline = deadline_;
    unfinished_ = request.n;
    const auto prompt_tokens = static_cast<int64_t>(request.prompt_tokens.size());
    if (client_.quota != nullptr) {
      const auto refusal = client_.quota->Begin(prompt_tokens, started_);
      if (refusal.has_value()) return Refuse(OverQuota(*refusal), "over the client's quota");
    }

    stream_.emplace(
        request.n, kStreamCapacity, [this] { context_.delivery.Post([this] { Deliver(); }); },
        [engine = &context_.engine] { engine->Wake(); });
    if (absl::Status status = context_.engine.Submit(std::move(request), &*stream_); !status.ok()) {
      if (client_.quota != nullptr) client_.quota->End(-prompt_tokens, absl::Now());
      return Refuse(ToGrpcStatus(status), status.message());
    }
    Deliver();
  }

  void OnCancel() override { context_.engine.Cancel(request_id_); }
  void OnDone() override { delete this; }

 protected:
  /// Writes out what the stream has; once it has nothing, the stream calls this again.
  virtual void Deliver() = 0;
  /// Whether the call was ended because its client has stopped reading.
  virtual bool CutOff() const { return false; }

  RequestStream& stream() { return *stream_; }
  ServiceContext& context() { return context_; }

  /// Adds a batch to the response.
  void Append(const RequestStream::Batch& batch, v1::GenerateResponse* response) {
    AppendOutputs(batch.outputs, *context_.model.tokenizer, response);
    for (const Output& output : batch.outputs) {
      if (!output.finish_reason.has_value() || output.finish_reason == FinishReason::kCancelled) {
        continue;
      }
      context_.metrics.OnContinuation(*output.finish_reason);
      --unfinished_;
    }
    if (batch.summary.has_value() && batch.summary->status.ok()) {
      SetSummary(*batch.summary, response);
    }
  }

  /// The status to end the call with once the engine is done with it.
  grpc::Status Ended(const RequestSummary& summary) {
    absl::Status status = summary.status;
    if (absl::IsCancelled(status) && CutOff()) {
      status = absl::AbortedError("the client has stopped reading");
    } else if (absl::IsCancelled(status) && ExpiredAtClient()) {
      status = absl::DeadlineExceededError("the call's deadline has passed");
    }
    if (client_.quota != nullptr) client_.quota->End(summary.generated_tokens, absl::Now());
    for (; unfinished_ > 0; --unfinished_) {
      context_.metrics.OnContinuation(FinishReason::kCancelled);
    }
    grpc::Status result = ToGrpcStatus(status);
    context_.metrics.OnCall(method_, CodeName(result.error_code()));
    Log(LogLevel::kInfo, "request",
        {{"method", method_},
         {"id", request_id_},
         {"client", client_.identity},
         {"trace_id", trace_id_},
         {"span_id", span_id_},
         {"code", CodeName(result.error_code())},
         {"prompt_tokens", summary.prompt_tokens},
         {"cached_tokens", summary.cached_tokens},
         {"generated_tokens", summary.generated_tokens},
         {"preemptions", summary.preemptions},
         {"queue_seconds", summary.queue_seconds},
         {"ttft_seconds", summary.ttft_seconds},
         {"total_seconds", summary.total_seconds}});
    return result;
  }

 private:
  /// Whether the client's clock has reached the deadline. A client resets a call that has expired,
  /// most often before the deadline passes here: it took the request time to arrive, and gRPC sends
  /// timeouts rounded up.
  bool ExpiredAtClient() const {
    if (deadline_ == absl::InfiniteFuture()) return false;
    return deadline_ - absl::Now() < absl::Milliseconds(50) + (deadline_ - started_) / 50;
  }

  /// Ends a call that the engine never took. `reason` goes into the log and holds nothing of what
  /// the request says.
  void Refuse(grpc::Status status, absl::string_view reason) {
    context_.metrics.OnCall(method_, CodeName(status.error_code()));
    Log(LogLevel::kInfo, "refused",
        {{"method", method_},
         {"client", client_.identity},
         {"trace_id", trace_id_},
         {"span_id", span_id_},
         {"code", CodeName(status.error_code())},
         {"reason", std::string(reason)}});
    this->Finish(std::move(status));
  }

  ServiceContext& context_;
  const char* method_;
  Client client_;
  std::optional<std::string> trace_id_;
  std::optional<std::string> span_id_;  ///< the caller's
  uint64_t request_id_ = 0;             ///< 0 is no request's: cancelling it does nothing
  absl::Time started_ = absl::Now();
  absl::Time deadline_ = absl::InfiniteFuture();
  int unfinished_ = 0;  ///< continuations that have neither stopped nor reached their length
  std::optional<RequestStream> stream_;
};

class StreamingCall final : public GenerationCall<grpc::ServerWriteReactor<v1::GenerateResponse>> {
 public:
  StreamingCall(ServiceContext& context, const char* method, grpc::CallbackServerContext& call)
      : GenerationCall(context, method), writes_(context.slow_readers, call) {}

  void OnWriteDone(bool ok) override {
    writes_.OnWriteDone();
    if (!ok) {  // the client is gone
      stream().DiscardOutputs();
      OnCancel();
    }
    Deliver();
  }

 private:
  void Deliver() override {
    const std::optional<RequestStream::Batch> batch = stream().Take();
    if (!batch.has_value()) return;
    response_.Clear();
    Append(*batch, &response_);
    if (response_.outputs_size() > 0) writes_.OnWrite();
    if (!batch->summary.has_value()) {
      StartWrite(&response_);
    } else if (response_.outputs_size() == 0) {
      Finish(Ended(*batch->summary));
    } else {
      StartWriteAndFinish(&response_, grpc::WriteOptions(), Ended(*batch->summary));
    }
  }

  bool CutOff() const override { return writes_.cut_off(); }

  v1::GenerateResponse response_;
  SlowReaders::Watch writes_;
};

class UnaryCall final : public GenerationCall<grpc::ServerUnaryReactor> {
 public:
  UnaryCall(ServiceContext& context, const char* method, v1::GenerateResponse* response)
      : GenerationCall(context, method), response_(*response) {}

 private:
  void Deliver() override {
    while (const std::optional<RequestStream::Batch> batch = stream().Take()) {
      Append(*batch, &response_);
      if (batch->summary.has_value()) return Finish(Ended(*batch->summary));
    }
  }

  v1::GenerateResponse& response_;
};

/// Ends a call that needs no engine.
grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* call, ServiceContext& context,
                                const char* method, grpc::Status status) {
  context.metrics.OnCall(method, CodeName(status.error_code()));
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  reactor->Finish(std::move(status));
  return reactor;
}

/// Whether the client may call, and this server serves the model that the call names.
absl::Status CheckCall(const grpc::CallbackServerContext& call, const std::string& model,
                       const ServiceContext& context) {
  const absl::StatusOr<Client> client = context.authenticator.Authenticate(call);
  return client.ok() ? CheckModelName(model, context.model) : client.status();
}

v1::ChatFamily ToProto(ChatFamily family) {
  switch (family) {
    case ChatFamily::kChatMl:
      return v1::CHAT_FAMILY_CHATML;
    case ChatFamily::kLlama2:
      return v1::CHAT_FAMILY_LLAMA2;
    case ChatFamily::kLlama3:
      return v1::CHAT_FAMILY_LLAMA3;
    case ChatFamily::kMistral:
      return v1::CHAT_FAMILY_MISTRAL;
    case ChatFamily::kVicuna:
      return v1::CHAT_FAMILY_VICUNA;
  }
  return v1::CHAT_FAMILY_UNSPECIFIED;
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* GenerationServiceImpl::Generate(
    grpc::CallbackServerContext* call, const v1::GenerateRequest* request) {
  auto* reactor = new StreamingCall(context_, "Generate", *call);
  reactor->Start(*call, *request);
  return reactor;
}

grpc::ServerUnaryReactor* GenerationServiceImpl::Complete(grpc::CallbackServerContext* call,
                                                          const v1::GenerateRequest* request,
                                                          v1::GenerateResponse* response) {
  auto* reactor = new UnaryCall(context_, "Complete", response);
  reactor->Start(*call, *request);
  return reactor;
}

grpc::ServerUnaryReactor* TokenizerServiceImpl::Tokenize(grpc::CallbackServerContext* call,
                                                         const v1::TokenizeRequest* request,
                                                         v1::TokenizeResponse* response) {
  const char* const method = "Tokenize";
  if (absl::Status status = CheckCall(*call, request->model(), context_); !status.ok()) {
    return Reply(call, context_, method, ToGrpcStatus(status));
  }
  std::vector<int32_t> tokens;
  const auto violations = ValidateTokenize(*request, context_.model, &tokens);
  if (!violations.empty()) return Reply(call, context_, method, BadRequest(violations));
  response->mutable_token_ids()->Add(tokens.begin(), tokens.end());
  for (const int32_t token : tokens) {
    response->add_tokens(context_.model.tokenizer->TokenBytes(token, /*render_special=*/true));
  }
  return Reply(call, context_, method, grpc::Status::OK);
}

grpc::ServerUnaryReactor* TokenizerServiceImpl::Detokenize(grpc::CallbackServerContext* call,
                                                           const v1::DetokenizeRequest* request,
                                                           v1::DetokenizeResponse* response) {
  const char* const method = "Detokenize";
  if (absl::Status status = CheckCall(*call, request->model(), context_); !status.ok()) {
    return Reply(call, context_, method, ToGrpcStatus(status));
  }
  const auto violations = ValidateDetokenize(*request, context_.model);
  if (!violations.empty()) return Reply(call, context_, method, BadRequest(violations));
  Detokenizer detokenizer(*context_.model.tokenizer, request->render_special(),
                          /*at_text_start=*/true);
  std::string text;
  for (const int32_t token : request->token_ids()) text += detokenizer.Append(token);
  response->set_text(text + detokenizer.Flush());
  return Reply(call, context_, method, grpc::Status::OK);
}

grpc::ServerUnaryReactor* ModelServiceImpl::GetModel(grpc::CallbackServerContext* call,
                                                     const v1::GetModelRequest* request,
                                                     v1::Model* response) {
  const char* const method = "GetModel";
  const ServedModel& model = context_.model;
  if (absl::Status status = CheckCall(*call, request->model(), context_); !status.ok()) {
    return Reply(call, context_, method, ToGrpcStatus(status));
  }
  response->set_name(model.name);
  response->set_title(model.title);
  response->set_architecture(model.architecture);
  response->set_vocab_size(model.tokenizer->vocab_size());
  response->set_context_tokens(model.context_tokens);
  response->set_trained_context_tokens(model.trained_context_tokens);
  if (model.chat.has_value()) response->set_chat_family(ToProto(model.chat->family()));
  const AttentionLimits& attention = model.attention;
  v1::AttentionSupport* support = response->mutable_attention();
  for (const SelectionKind kind :
       {SelectionKind::kAll, SelectionKind::kLabels, SelectionKind::kWindow}) {
    if (kind == SelectionKind::kAll && attention.min_sparsity > 1) continue;
    if (kind == SelectionKind::kLabels && !attention.has_labels) continue;
    support->add_policies(std::string(PolicyName(kind)));
  }
  support->set_default_policy(std::string(PolicyName(attention.default_policy.kind)));
  support->set_default_sparsity(attention.default_policy.sparsity);
  support->set_min_sparsity(attention.min_sparsity);
  support->set_max_sparsity(attention.max_sparsity);
  v1::RequestLimits* limits = response->mutable_limits();
  limits->set_prompt_tokens(MaxPromptTokens(model));
  limits->set_n(MaxContinuations(model));
  limits->set_stop_strings(model.limits.stop_strings);
  limits->set_stop_string_bytes(kMaxStopStringBytes);
  limits->set_stop_token_ids(kMaxStopTokenIds);
  limits->set_top_logprobs(kMaxTopLogprobs);
  limits->set_logit_bias_entries(model.limits.logit_bias_entries);
  limits->set_min_priority(model.min_priority);
  limits->set_max_priority(kMaxPriority);
  return Reply(call, context_, method, grpc::Status::OK);
}

}  // namespace winnow

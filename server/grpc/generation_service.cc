#include "server/grpc/generation_service.h"

#include <atomic>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "server/grpc/call_context.h"
#include "server/grpc/message.h"
#include "server/grpc/prompt.h"
#include "server/grpc/request_validation.h"
#include "server/grpc/response.h"
#include "server/grpc/status_mapping.h"
#include "server/session/generation_session.h"

namespace winnow {
namespace {

/// What the streaming and the unary call have in common. `Reactor` is gRPC's base class.
///
/// Threads: Start runs before gRPC reacts. OnReady and OnWriteDone run in one thread at a time, as
/// GenerationSession wants it, OnCancel perhaps beside them.
template <typename Reactor>
class GenerationCall : public Reactor, public GenerationFront {
 public:
  GenerationCall(SessionContext& context, IncomingCall call, const grpc::ByteBuffer& bytes)
      : model_(context.model), bytes_(bytes), session_(context, std::move(call), *this) {}

  void Start() { session_.Start(); }

  void OnCancel() override { session_.Cancel(); }
  void OnDone() override { delete this; }

  std::vector<FieldViolation> Parse() override { return ParseMessage(bytes_, &message_); }
  std::string Model() const override { return message_.model(); }
  Request Outline() const override { return winnow::Outline(message_, model_); }
  size_t TextBytes() const override { return winnow::TextBytes(message_); }
  std::vector<FieldViolation> Decode(const std::atomic<bool>& cancelled,
                                     Request* request) override {
    v1::GenerateRequest message;
    message.Swap(&message_);  // its memory is free again once it is a request
    return ValidateGenerate(message, model_, cancelled, request);
  }

 protected:
  GenerationSession& session() { return session_; }
  const ServedModel& model() const { return model_; }

  /// Adds a batch to the response.
  void Append(const GenerationSession::Batch& batch, v1::GenerateResponse* response) {
    AppendOutputs(batch.outputs, *model_.tokenizer, response);
    if (batch.summary.has_value()) SetSummary(*batch.summary, response);
  }

 private:
  const ServedModel& model_;
  const grpc::ByteBuffer& bytes_;
  v1::GenerateRequest message_;
  GenerationSession session_;
};

class StreamingCall final : public GenerationCall<grpc::ServerWriteReactor<grpc::ByteBuffer>> {
 public:
  using GenerationCall::GenerationCall;

  void OnWriteDone(bool ok) override {
    session().OnWriteDone(ok);
    OnReady();
  }

  // Writes out what the session has; once it has nothing, it calls this again.
  void OnReady() override {
    const std::optional<GenerationSession::Batch> batch = session().Take();
    if (!batch.has_value()) return;
    response_.Clear();
    Append(*batch, &response_);
    bytes_ = SerializeMessage(response_);
    if (!batch->end.has_value()) {
      StartWrite(&bytes_);
    } else if (response_.outputs_size() == 0) {
      Finish(ToGrpcStatus(*batch->end));
    } else {
      StartWriteAndFinish(&bytes_, grpc::WriteOptions(), ToGrpcStatus(*batch->end));
    }
  }

 private:
  v1::GenerateResponse response_;
  grpc::ByteBuffer bytes_;  ///< that are being written
};

class UnaryCall final : public GenerationCall<grpc::ServerUnaryReactor> {
 public:
  UnaryCall(SessionContext& context, IncomingCall call, const grpc::ByteBuffer& bytes,
            grpc::ByteBuffer* answer)
      : GenerationCall(context, std::move(call), bytes), answer_(*answer) {}

  std::vector<FieldViolation> Decode(const std::atomic<bool>& cancelled,
                                     Request* request) override {
    std::vector<FieldViolation> violations = GenerationCall::Decode(cancelled, request);
    if (violations.empty()) violations = CheckAnswer(*request, model());
    return violations;
  }

  void OnReady() override {
    while (const std::optional<GenerationSession::Batch> batch = session().Take()) {
      Append(*batch, &response_);
      if (!batch->end.has_value()) {
        BoundAnswer(batch->outputs);
        continue;
      }
      answer_ = SerializeMessage(response_);
      return Finish(ToGrpcStatus(*batch->end));
    }
  }

 private:
  // Ends the call if its answer would become too large: CheckAnswer expected tokens to be shorter.
  // A little before, for what one step may add.
  void BoundAnswer(const std::vector<Output>& outputs) {
    const int64_t most = model().limits.answer_bytes;
    bytes_ += ResponseBytes(outputs, *model().tokenizer);
    if (bytes_ <= most - most / 16) return;
    session().GiveUp(absl::ResourceExhaustedError(absl::StrCat(
        "the answer would take more than the ", most, " bytes that it may have; call Generate")));
    response_.Clear();  // nobody gets it
    bytes_ = 0;
  }

  v1::GenerateResponse response_;
  int64_t bytes_ = 0;  ///< that it takes, nearly
  grpc::ByteBuffer& answer_;
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerationServiceImpl::Generate(
    grpc::CallbackServerContext* call, const grpc::ByteBuffer* request) {
  IncomingCall incoming = IncomingCallOf(*call, "Generate");
  incoming.abort = AbortOf(*call);
  auto* reactor = new StreamingCall(context_, std::move(incoming), *request);
  reactor->Start();
  return reactor;
}

grpc::ServerUnaryReactor* GenerationServiceImpl::Complete(grpc::CallbackServerContext* call,
                                                          const grpc::ByteBuffer* request,
                                                          grpc::ByteBuffer* response) {
  auto* reactor = new UnaryCall(context_, IncomingCallOf(*call, "Complete"), *request, response);
  reactor->Start();
  return reactor;
}

}  // namespace winnow

#pragma once

#include <atomic>
#include <cstddef>
#include <string>
#include <vector>

#include "google/protobuf/message.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/session/call_status.h"
#include "server/session/session_context.h"

namespace winnow {

/// A call that has one answer and needs no engine: it is checked, worked on, counted and answered.
/// Lives from its start to its OnDone.
class SimpleCall : public grpc::ServerUnaryReactor {
 public:
  /// `method`: such as "Tokenize", what metrics call it; `bytes`: the request.
  SimpleCall(SessionContext& context, const char* method, const grpc::ByteBuffer& bytes,
             grpc::ByteBuffer* answer)
      : context_(context), method_(method), bytes_(bytes), answer_(*answer) {}

  /// Returns the call, which may be over by then.
  grpc::ServerUnaryReactor* Start(const grpc::CallbackServerContext& transport);

  void OnCancel() override { cancelled_ = true; }
  void OnDone() override { delete this; }

 protected:
  const ServedModel& model() const { return context_.model; }

 private:
  /// Where the messages are.
  virtual google::protobuf::Message& Request() = 0;
  virtual const google::protobuf::Message& Response() const = 0;
  /// The model that the request names.
  virtual const std::string& ModelName() const = 0;
  /// Bytes of the request that Answer works on.
  virtual size_t TextBytes() const { return 0; }
  /// Makes the response, in the caller's thread or one of TextPool, or says what is wrong with the
  /// request. Returns soon once `cancelled` is set; then the response is not sent.
  virtual std::vector<FieldViolation> Answer(const std::atomic<bool>& cancelled) = 0;

  void Work();
  void End(const CallStatus& end);

  SessionContext& context_;
  const char* const method_;
  const grpc::ByteBuffer& bytes_;
  grpc::ByteBuffer& answer_;
  std::atomic<bool> cancelled_ = false;
};

}  // namespace winnow

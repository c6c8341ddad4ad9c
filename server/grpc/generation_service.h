#pragma once

#include "grpcpp/support/byte_buffer.h"
#include "server/session/session_context.h"
#include "winnow/v1/generation.grpc.pb.h"

namespace winnow {

/// Generation: each call is a reactor that lives from the call's start to its OnDone, owns the
/// session, and ends only after the engine has let go of that.
class GenerationServiceImpl final
    : public v1::GenerationService::WithRawCallbackMethod_Generate<
          v1::GenerationService::WithRawCallbackMethod_Complete<v1::GenerationService::Service>> {
 public:
  explicit GenerationServiceImpl(SessionContext& context) : context_(context) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* call,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Complete(grpc::CallbackServerContext* call,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;

 private:
  SessionContext& context_;
};

}  // namespace winnow

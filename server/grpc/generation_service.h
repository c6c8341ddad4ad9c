#pragma once

#include "server/session/session_context.h"
#include "winnow/v1/generation.grpc.pb.h"

namespace winnow {

/// Generation: each call is a reactor that lives from the call's start to its OnDone, owns the
/// session, and ends only after the engine has let go of that.
class GenerationServiceImpl final : public v1::GenerationService::CallbackService {
 public:
  explicit GenerationServiceImpl(SessionContext& context) : context_(context) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* call, const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* Complete(grpc::CallbackServerContext* call,
                                     const v1::GenerateRequest* request,
                                     v1::GenerateResponse* response) override;

 private:
  SessionContext& context_;
};

}  // namespace winnow

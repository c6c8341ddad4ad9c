#pragma once

#include "grpcpp/support/byte_buffer.h"
#include "server/session/session_context.h"
#include "winnow/v1/model.grpc.pb.h"

namespace winnow {

/// Describes the served model and the limits of requests to it.
class ModelServiceImpl final
    : public v1::ModelService::WithRawCallbackMethod_GetModel<v1::ModelService::Service> {
 public:
  explicit ModelServiceImpl(SessionContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* call,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;

 private:
  SessionContext& context_;
};

}  // namespace winnow

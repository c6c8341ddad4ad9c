#pragma once

#include "server/session/session_context.h"
#include "winnow/v1/model.grpc.pb.h"

namespace winnow {

/// Describes the served model and the limits of requests to it.
class ModelServiceImpl final : public v1::ModelService::CallbackService {
 public:
  explicit ModelServiceImpl(SessionContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* call,
                                     const v1::GetModelRequest* request,
                                     v1::Model* response) override;

 private:
  SessionContext& context_;
};

}  // namespace winnow

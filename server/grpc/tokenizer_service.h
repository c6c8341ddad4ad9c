#pragma once

#include "server/session/session_context.h"
#include "winnow/v1/tokenizer.grpc.pb.h"

namespace winnow {

/// Text to tokens and back.
class TokenizerServiceImpl final : public v1::TokenizerService::CallbackService {
 public:
  explicit TokenizerServiceImpl(SessionContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* call,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* call,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;

 private:
  SessionContext& context_;
};

}  // namespace winnow

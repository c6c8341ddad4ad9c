#pragma once

#include "grpcpp/support/byte_buffer.h"
#include "server/session/session_context.h"
#include "winnow/v1/tokenizer.grpc.pb.h"

namespace winnow {

/// Text to tokens and back.
class TokenizerServiceImpl final
    : public v1::TokenizerService::WithRawCallbackMethod_Tokenize<
          v1::TokenizerService::WithRawCallbackMethod_Detokenize<v1::TokenizerService::Service>> {
 public:
  explicit TokenizerServiceImpl(SessionContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* call,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* call,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;

 private:
  SessionContext& context_;
};

}  // namespace winnow

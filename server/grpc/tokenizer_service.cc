#include "server/grpc/tokenizer_service.h"

#include <string>
#include <vector>

#include "server/grpc/request_validation.h"
#include "server/grpc/unary_call.h"

namespace winnow {

grpc::ServerUnaryReactor* TokenizerServiceImpl::Tokenize(grpc::CallbackServerContext* call,
                                                         const v1::TokenizeRequest* request,
                                                         v1::TokenizeResponse* response) {
  const char* const method = "Tokenize";
  if (absl::Status status = CheckCall(*call, request->model(), context_); !status.ok()) {
    return Reply(call, context_, method, EndOf(status));
  }
  std::vector<int32_t> tokens;
  const auto violations = ValidateTokenize(*request, context_.model, &tokens);
  if (!violations.empty()) return Reply(call, context_, method, Invalid(violations));
  response->mutable_token_ids()->Add(tokens.begin(), tokens.end());
  for (const int32_t token : tokens) {
    response->add_tokens(context_.model.tokenizer->TokenBytes(token, /*render_special=*/true));
  }
  return Reply(call, context_, method, EndOf(absl::OkStatus()));
}

grpc::ServerUnaryReactor* TokenizerServiceImpl::Detokenize(grpc::CallbackServerContext* call,
                                                           const v1::DetokenizeRequest* request,
                                                           v1::DetokenizeResponse* response) {
  const char* const method = "Detokenize";
  if (absl::Status status = CheckCall(*call, request->model(), context_); !status.ok()) {
    return Reply(call, context_, method, EndOf(status));
  }
  const auto violations = ValidateDetokenize(*request, context_.model);
  if (!violations.empty()) return Reply(call, context_, method, Invalid(violations));
  Detokenizer detokenizer(*context_.model.tokenizer, request->render_special(),
                          /*at_text_start=*/true);
  std::string text;
  for (const int32_t token : request->token_ids()) text += detokenizer.Append(token);
  response->set_text(text + detokenizer.Flush());
  return Reply(call, context_, method, EndOf(absl::OkStatus()));
}

}  // namespace winnow

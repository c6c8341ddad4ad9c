#include "server/grpc/tokenizer_service.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "server/grpc/prompt.h"
#include "server/grpc/request_validation.h"
#include "server/grpc/simple_call.h"

namespace winnow {
namespace {

CallStatus Tokenize(const v1::TokenizeRequest& request, const ServedModel& model,
                    const std::atomic<bool>& cancelled, v1::TokenizeResponse* response) {
  std::vector<int32_t> tokens;
  std::vector<FieldViolation> violations = ReadInput(request, model, cancelled, &tokens);
  if (!violations.empty()) return Invalid(std::move(violations));
  response->mutable_token_ids()->Add(tokens.begin(), tokens.end());
  for (const int32_t token : tokens) {
    if (cancelled) break;
    response->add_tokens(model.tokenizer->TokenBytes(token, /*render_special=*/true));
  }
  return EndOf(absl::OkStatus());
}

CallStatus Detokenize(const v1::DetokenizeRequest& request, const ServedModel& model,
                      const std::atomic<bool>& cancelled, v1::DetokenizeResponse* response) {
  std::vector<FieldViolation> violations = ValidateDetokenize(request, model);
  if (!violations.empty()) return Invalid(std::move(violations));
  Detokenizer detokenizer(*model.tokenizer, request.render_special(), /*at_text_start=*/true);
  std::string text;
  for (const int32_t token : request.token_ids()) {
    if (cancelled) break;
    text += detokenizer.Append(token);
  }
  response->set_text(text + detokenizer.Flush());
  return EndOf(absl::OkStatus());
}

}  // namespace

grpc::ServerUnaryReactor* TokenizerServiceImpl::Tokenize(grpc::CallbackServerContext* call,
                                                         const v1::TokenizeRequest* request,
                                                         v1::TokenizeResponse* response) {
  return StartSimpleCall(context_, *call,
                         {.method = "Tokenize",
                          .model = request->model(),
                          .text_bytes = TextBytes(*request),
                          .work = [this, request, response](const std::atomic<bool>& cancelled) {
                            return winnow::Tokenize(*request, context_.model, cancelled, response);
                          }});
}

grpc::ServerUnaryReactor* TokenizerServiceImpl::Detokenize(grpc::CallbackServerContext* call,
                                                           const v1::DetokenizeRequest* request,
                                                           v1::DetokenizeResponse* response) {
  return StartSimpleCall(
      context_, *call,
      {.method = "Detokenize",
       .model = request->model(),
       .text_bytes = static_cast<size_t>(request->token_ids_size()) * sizeof(int32_t),
       .work = [this, request, response](const std::atomic<bool>& cancelled) {
         return winnow::Detokenize(*request, context_.model, cancelled, response);
       }});
}

}  // namespace winnow

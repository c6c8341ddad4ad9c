#include "server/grpc/tokenizer_service.h"

#include <cstdint>
#include <string>
#include <vector>

#include "server/grpc/prompt.h"
#include "server/grpc/request_validation.h"
#include "server/grpc/simple_call.h"

namespace winnow {
namespace {

class TokenizeCall final : public SimpleCall {
 public:
  using SimpleCall::SimpleCall;

 private:
  google::protobuf::Message& Request() override { return request_; }
  const google::protobuf::Message& Response() const override { return response_; }
  const std::string& ModelName() const override { return request_.model(); }
  size_t TextBytes() const override { return winnow::TextBytes(request_); }
  std::vector<FieldViolation> Answer(const std::atomic<bool>& cancelled) override {
    std::vector<int32_t> tokens;
    std::vector<FieldViolation> violations = ReadInput(request_, model(), cancelled, &tokens);
    response_.mutable_token_ids()->Add(tokens.begin(), tokens.end());
    for (const int32_t token : tokens) {
      if (cancelled) break;
      response_.add_tokens(model().tokenizer->TokenBytes(token, /*render_special=*/true));
    }
    return violations;
  }

  v1::TokenizeRequest request_;
  v1::TokenizeResponse response_;
};

class DetokenizeCall final : public SimpleCall {
 public:
  using SimpleCall::SimpleCall;

 private:
  google::protobuf::Message& Request() override { return request_; }
  const google::protobuf::Message& Response() const override { return response_; }
  const std::string& ModelName() const override { return request_.model(); }
  size_t TextBytes() const override {
    return static_cast<size_t>(request_.token_ids_size()) * sizeof(int32_t);
  }
  std::vector<FieldViolation> Answer(const std::atomic<bool>& cancelled) override {
    std::vector<FieldViolation> violations = ValidateDetokenize(request_, model());
    if (!violations.empty()) return violations;
    Detokenizer detokenizer(*model().tokenizer, request_.render_special(), /*at_text_start=*/true);
    std::string& text = *response_.mutable_text();
    for (const int32_t token : request_.token_ids()) {
      if (cancelled) break;
      text += detokenizer.Append(token);
    }
    text += detokenizer.Flush();
    return {};
  }

  v1::DetokenizeRequest request_;
  v1::DetokenizeResponse response_;
};

}  // namespace

grpc::ServerUnaryReactor* TokenizerServiceImpl::Tokenize(grpc::CallbackServerContext* call,
                                                         const grpc::ByteBuffer* request,
                                                         grpc::ByteBuffer* response) {
  return (new TokenizeCall(context_, "Tokenize", *request, response))->Start(*call);
}

grpc::ServerUnaryReactor* TokenizerServiceImpl::Detokenize(grpc::CallbackServerContext* call,
                                                           const grpc::ByteBuffer* request,
                                                           grpc::ByteBuffer* response) {
  return (new DetokenizeCall(context_, "Detokenize", *request, response))->Start(*call);
}

}  // namespace winnow

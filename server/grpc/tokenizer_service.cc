#include "server/grpc/tokenizer_service.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/grpc/prompt.h"
#include "server/grpc/request_validation.h"
#include "server/grpc/simple_call.h"

namespace winnow {
namespace {

/// That an answer is larger than it may be, for what `field` holds.
std::vector<FieldViolation> TooLarge(const char* field, const ServedModel& model) {
  return {{field, absl::StrCat("the answer takes more than the ", model.limits.answer_bytes,
                               " bytes that it may have; send it in pieces")}};
}

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
    if (!violations.empty()) return violations;
    response_.mutable_token_ids()->Add(tokens.begin(), tokens.end());
    auto bytes = static_cast<int64_t>(tokens.size());  // of ids and of texts, at least
    for (const int32_t token : tokens) {
      std::string text = model().tokenizer->TokenBytes(token, /*render_special=*/true);
      bytes += 2 + static_cast<int64_t>(text.size());
      if (cancelled || bytes > model().limits.answer_bytes) break;
      response_.add_tokens(std::move(text));
    }
    const bool fits = static_cast<int64_t>(response_.ByteSizeLong()) <= model().limits.answer_bytes;
    if (response_.tokens_size() == response_.token_ids_size() && fits) return {};
    return TooLarge(request_.has_chat() ? "chat" : "text", model());
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
      if (static_cast<int64_t>(text.size()) > model().limits.answer_bytes) {
        return TooLarge("token_ids", model());
      }
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

#include "server/grpc/model_service.h"

#include <string>
#include <vector>

#include "server/grpc/simple_call.h"

namespace winnow {
namespace {

/// Describes the model.
void Fill(const ServedModel& model, v1::Model* response) {
  response->set_name(model.name);
  response->set_title(model.title);
  response->set_architecture(model.architecture);
  response->set_vocab_size(model.tokenizer->vocab_size());
  response->set_context_tokens(model.context_tokens);
  response->set_trained_context_tokens(model.trained_context_tokens);
  response->set_chat(model.chat.has_value());
  const AttentionLimits& attention = model.attention;
  v1::AttentionSupport* support = response->mutable_attention();
  for (const SelectionKind kind :
       {SelectionKind::kAll, SelectionKind::kLabels, SelectionKind::kWindow}) {
    if (kind == SelectionKind::kAll && attention.min_sparsity > 1) continue;
    if (kind == SelectionKind::kLabels && !attention.has_labels) continue;
    support->add_policies(std::string(PolicyName(kind)));
  }
  support->set_default_policy(std::string(PolicyName(attention.default_policy.kind)));
  support->set_default_sparsity(attention.default_policy.sparsity);
  support->set_min_sparsity(attention.min_sparsity);
  support->set_max_sparsity(attention.max_sparsity);
  v1::SamplingParams* sampling = response->mutable_sampling();
  sampling->set_temperature(model.sampling.temperature);
  sampling->set_top_k(model.sampling.top_k);
  sampling->set_top_p(model.sampling.top_p);
  sampling->set_min_p(model.sampling.min_p);
  sampling->set_repetition_penalty(model.sampling.repetition_penalty);
  sampling->set_presence_penalty(model.sampling.presence_penalty);
  sampling->set_frequency_penalty(model.sampling.frequency_penalty);
  v1::RequestLimits* limits = response->mutable_limits();
  limits->set_prompt_tokens(MaxPromptTokens(model));
  limits->set_n(MaxContinuations(model));
  limits->set_stop_strings(model.limits.stop_strings);
  limits->set_stop_string_bytes(kMaxStopStringBytes);
  limits->set_stop_token_ids(kMaxStopTokenIds);
  limits->set_top_logprobs(kMaxTopLogprobs);
  limits->set_logit_bias_entries(model.limits.logit_bias_entries);
  limits->set_answer_bytes(model.limits.answer_bytes);
  limits->set_min_priority(model.min_priority);
  limits->set_max_priority(kMaxPriority);
}

class GetModelCall final : public SimpleCall {
 public:
  using SimpleCall::SimpleCall;

 private:
  google::protobuf::Message& Request() override { return request_; }
  const google::protobuf::Message& Response() const override { return response_; }
  const std::string& ModelName() const override { return request_.model(); }
  std::vector<FieldViolation> Answer(const std::atomic<bool>& /*cancelled*/) override {
    Fill(model(), &response_);
    return {};
  }

  v1::GetModelRequest request_;
  v1::Model response_;
};

}  // namespace

grpc::ServerUnaryReactor* ModelServiceImpl::GetModel(grpc::CallbackServerContext* call,
                                                     const grpc::ByteBuffer* request,
                                                     grpc::ByteBuffer* response) {
  return (new GetModelCall(context_, "GetModel", *request, response))->Start(*call);
}

}  // namespace winnow

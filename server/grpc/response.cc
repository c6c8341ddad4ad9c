#include "server/grpc/response.h"

namespace winnow {
namespace {

v1::Output* OutputOf(int index, v1::GenerateResponse* response) {
  for (v1::Output& output : *response->mutable_outputs()) {
    if (output.index() == index) return &output;
  }
  v1::Output* added = response->add_outputs();
  added->set_index(index);
  return added;
}

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

void Fill(int32_t token, float logprob, const Tokenizer& tokenizer, v1::TokenLogprob* out) {
  out->set_token_id(token);
  out->set_token(tokenizer.TokenBytes(token, /*render_special=*/true));
  out->set_logprob(logprob);
}

// What a token takes beside its bytes: its id; a list of log-probabilities; each of these, with id,
// the number itself, and what tells fields apart.
constexpr int kIdBytes = 3;
constexpr int kListBytes = 3;
constexpr int kLogprobBytes = 2 + 4 + 2 + 5;

}  // namespace

int64_t ResponseBytes(const std::vector<Output>& outputs, const Tokenizer& tokenizer) {
  size_t bytes = 0;
  const auto add = [&](int32_t token) {
    bytes += kLogprobBytes + tokenizer.TokenBytes(token, /*render_special=*/true).size();
  };
  for (const Output& output : outputs) {
    bytes += output.text.size();
    for (const OutputToken& token : output.tokens) {
      bytes += kIdBytes;
      if (!token.logprob.has_value()) continue;
      bytes += kListBytes;
      add(token.token);
      for (const TokenLogprob& top : token.top_logprobs) add(top.token);
    }
  }
  return static_cast<int64_t>(bytes);
}

double ExpectedResponseBytes(const Request& request, double mean_token_bytes) {
  double token_bytes = kIdBytes + mean_token_bytes;
  if (request.logprobs) {
    token_bytes += kListBytes + (1 + request.top_logprobs) * (kLogprobBytes + mean_token_bytes);
  }
  return token_bytes * request.n * request.max_tokens;
}

void AppendOutputs(const std::vector<Output>& outputs, const Tokenizer& tokenizer,
                   v1::GenerateResponse* response) {
  for (const Output& from : outputs) {
    v1::Output* to = OutputOf(from.index, response);
    to->mutable_text()->append(from.text);
    for (const OutputToken& token : from.tokens) {
      to->add_token_ids(token.token);
      if (!token.logprob.has_value()) continue;
      v1::TokenLogprobs* logprobs = to->add_logprobs();
      Fill(token.token, *token.logprob, tokenizer, logprobs->mutable_chosen());
      for (const TokenLogprob& top : token.top_logprobs) {
        Fill(top.token, top.logprob, tokenizer, logprobs->add_top());
      }
    }
    if (from.finish_reason.has_value()) {
      to->set_finish_reason(ToProto(*from.finish_reason));
      to->set_matched_stop(from.matched_stop);
    }
  }
}

void SetSummary(const RequestSummary& summary, v1::GenerateResponse* response) {
  v1::Usage* usage = response->mutable_summary()->mutable_usage();
  usage->set_prompt_tokens(summary.prompt_tokens);
  usage->set_cached_tokens(summary.cached_tokens);
  usage->set_generated_tokens(summary.generated_tokens);
  v1::Timings* timings = response->mutable_summary()->mutable_timings();
  timings->set_queue_seconds(summary.queue_seconds);
  timings->set_ttft_seconds(summary.ttft_seconds);
  timings->set_total_seconds(summary.total_seconds);
  const SparsitySummary& attention = summary.sparsity;
  v1::Sparsity* sparsity = response->mutable_summary()->mutable_sparsity();
  sparsity->set_policy(std::string(PolicyName(attention.policy.kind)));
  sparsity->set_kv_bytes_read(attention.traffic.bytes());
  sparsity->set_kv_bytes_dense(attention.traffic.equivalent_bytes);
  sparsity->set_mean_budget_tokens(attention.mean_budget_tokens());
  if (attention.recall_samples > 0) {
    sparsity->set_sampled_recall(attention.recall_sum / attention.recall_samples);
    sparsity->set_sampled_estimated_mass(attention.estimated_sum / attention.recall_samples);
  }
  sparsity->set_fallbacks(attention.fallbacks);
}

const char* FinishReasonName(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_CANCELLED:
      return "cancelled";
    default:
      return "";
  }
}

}  // namespace winnow

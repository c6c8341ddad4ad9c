#include "server/grpc/request_validation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "engine/text/sampling_defaults.h"
#include "server/grpc/field_checker.h"
#include "server/grpc/prompt.h"
#include "server/grpc/response.h"

namespace winnow {
namespace {

void ReadSampling(const v1::SamplingParams& in, const ServedModel& model, Checker& checker,
                  SamplingParams* out) {
  const int32_t vocab_size = model.tokenizer->vocab_size();
  *out = model.sampling;
  if (in.has_temperature()) out->temperature = in.temperature();
  if (in.has_top_k()) out->top_k = in.top_k();
  if (in.has_top_p()) out->top_p = in.top_p();
  if (in.has_min_p()) out->min_p = in.min_p();
  if (in.has_repetition_penalty()) out->repetition_penalty = in.repetition_penalty();
  if (in.has_presence_penalty()) out->presence_penalty = in.presence_penalty();
  if (in.has_frequency_penalty()) out->frequency_penalty = in.frequency_penalty();
  if (in.has_seed()) out->seed = in.seed();

  checker.InRange("sampling.temperature", out->temperature, 0.0f, kMaxTemperature);
  if (out->top_k < 0) {
    checker.Violation("sampling.top_k", absl::StrCat("must be at least 0, is ", out->top_k));
  }
  checker.Check("sampling.top_p", out->top_p > 0 && out->top_p <= 1,
                "must be above 0 and at most 1", out->top_p);
  checker.Check("sampling.min_p", out->min_p >= 0 && out->min_p < 1,
                "must be at least 0 and below 1", out->min_p);
  checker.InRange("sampling.repetition_penalty", out->repetition_penalty, kMinRepetitionPenalty,
                  kMaxRepetitionPenalty);
  checker.InRange("sampling.presence_penalty", out->presence_penalty, -2.0f, 2.0f);
  checker.InRange("sampling.frequency_penalty", out->frequency_penalty, -2.0f, 2.0f);

  checker.AtMost("sampling.logit_bias", static_cast<int>(in.logit_bias().size()),
                 model.limits.logit_bias_entries, "entries");
  out->logit_bias.assign(in.logit_bias().begin(), in.logit_bias().end());
  // Maps have no order; the same request must always be the same to the engine.
  std::sort(out->logit_bias.begin(), out->logit_bias.end());
  for (const auto& [token, bias] : out->logit_bias) {
    const std::string field = absl::StrCat("sampling.logit_bias[", token, "]");
    if (token < 0 || token >= vocab_size) {
      checker.Violation(field, absl::StrCat("must be a token id from 0 to ", vocab_size - 1));
      break;
    }
    const bool banned = bias == -std::numeric_limits<float>::infinity();
    if (!banned && !(bias >= -100 && bias <= 100)) {
      checker.Violation(field, absl::StrCat("must be from -100 to 100 or -infinity, is ", bias));
      break;
    }
  }
}

void ReadStop(const v1::StopConditions& in, const ServedModel& model, Checker& checker,
              Request* out) {
  checker.AtMost("stop.strings", in.strings_size(), model.limits.stop_strings, "strings");
  for (int i = 0; i < in.strings_size(); ++i) {
    const size_t bytes = in.strings(i).size();
    if (bytes >= 1 && bytes <= kMaxStopStringBytes) continue;
    checker.Violation(
        absl::StrCat("stop.strings[", i, "]"),
        absl::StrCat("must be 1 to ", kMaxStopStringBytes, " bytes long, has ", bytes));
    break;
  }
  checker.AtMost("stop.token_ids", in.token_ids_size(), kMaxStopTokenIds, "tokens");
  checker.KnownTokens("stop.token_ids", in.token_ids(), model.tokenizer->vocab_size());
  out->stop.assign(in.strings().begin(), in.strings().end());
  out->stop_token_ids.assign(in.token_ids().begin(), in.token_ids().end());
  out->ignore_eos = in.ignore_eos();
}

void ReadAttention(const v1::AttentionPolicy& in, const ServedModel& model, Checker& checker,
                   AttentionPolicy* out) {
  const AttentionLimits& limits = model.attention;
  *out = limits.default_policy;
  if (!in.policy().empty()) {
    const absl::StatusOr<SelectionKind> kind = ParsePolicyName(in.policy());
    if (!kind.ok() || *kind == SelectionKind::kScores) {
      checker.Violation("attention.policy",
                        absl::StrCat("must be dense, double-sparsity or window, is ", in.policy()));
      return;
    }
    out->kind = *kind;
  }
  if (out->kind == SelectionKind::kLabels && !limits.has_labels) {
    checker.Violation("attention.policy",
                      "double-sparsity needs a label file, which this server does not have");
  }
  if (out->kind == SelectionKind::kAll) {
    if (limits.min_sparsity > 1) {
      checker.Violation("attention.policy",
                        absl::StrCat("dense attention is not allowed here: the least sparsity is ",
                                     limits.min_sparsity));
    }
    if (in.has_sparsity() || in.has_budget_tokens()) {
      checker.Violation("attention", "dense attention has no budget");
    }
    return;
  }
  if (in.has_sparsity() && in.has_budget_tokens()) {
    checker.Violation("attention.budget_tokens", "excludes sparsity: only one may be set");
  }
  if (in.has_sparsity()) {
    out->sparsity = in.sparsity();
    out->budget_tokens = 0;
    checker.InRange("attention.sparsity", out->sparsity, limits.min_sparsity, limits.max_sparsity);
  }
  if (in.has_budget_tokens()) {
    out->budget_tokens = in.budget_tokens();
    const auto context = static_cast<double>(model.context_tokens);
    checker.InRange("attention.budget_tokens", out->budget_tokens,
                    std::max(1, static_cast<int>(std::ceil(context / limits.max_sparsity))),
                    static_cast<int>(context / limits.min_sparsity));
  }
}

}  // namespace

Request Outline(const v1::GenerateRequest& in, const ServedModel& model) {
  Request outline;
  outline.priority = std::clamp(in.priority(), model.min_priority, kMaxPriority);
  outline.n = std::clamp(in.has_n() ? in.n() : 1, 1, MaxContinuations(model));
  outline.max_tokens = std::max(1, in.stop().max_tokens());
  outline.ignore_eos = in.stop().ignore_eos();
  return outline;
}

std::vector<FieldViolation> ValidateGenerate(const v1::GenerateRequest& in,
                                             const ServedModel& model,
                                             const std::atomic<bool>& cancelled, Request* out) {
  Checker checker;
  ReadPrompt(in, model, cancelled, checker, out);
  ReadSampling(in.sampling(), model, checker, &out->sampling);
  ReadStop(in.stop(), model, checker, out);
  ReadAttention(in.attention(), model, checker, &out->attention);

  if (in.has_n()) out->n = in.n();
  checker.InRange("n", out->n, 1, MaxContinuations(model));
  out->logprobs = in.logprobs();
  out->top_logprobs = in.top_logprobs();
  checker.InRange("top_logprobs", out->top_logprobs, 0, kMaxTopLogprobs);
  if (out->top_logprobs > 0 && !out->logprobs) {
    checker.Violation("top_logprobs", "needs logprobs to be true");
  }
  out->priority = in.priority();
  checker.InRange("priority", out->priority, model.min_priority, kMaxPriority);
  out->render_special = in.render_special();
  out->cache_salt = in.cache_salt();
  if (out->cache_salt.size() > kMaxSaltBytes) {
    checker.Violation("cache_salt", absl::StrCat("has ", out->cache_salt.size(),
                                                 " bytes; it may have ", kMaxSaltBytes));
  }
  return checker.Take();
}

std::vector<FieldViolation> CheckAnswer(const Request& request, const ServedModel& model) {
  const double bytes = ExpectedResponseBytes(request, model.mean_token_bytes);
  if (bytes <= static_cast<double>(model.limits.answer_bytes)) return {};
  Checker checker;
  checker.Violation("stop.max_tokens",
                    absl::StrCat("with n and top_logprobs asks for an answer of some ",
                                 static_cast<int64_t>(bytes), " bytes; one message may have ",
                                 model.limits.answer_bytes, ", Generate streams them"));
  return checker.Take();
}

std::vector<FieldViolation> ValidateDetokenize(const v1::DetokenizeRequest& in,
                                               const ServedModel& model) {
  Checker checker;
  checker.KnownTokens("token_ids", in.token_ids(), model.tokenizer->vocab_size());
  return checker.Take();
}

}  // namespace winnow

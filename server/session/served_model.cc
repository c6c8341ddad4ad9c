#include "server/session/served_model.h"

#include <algorithm>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "server/session/call_status.h"

namespace winnow {

absl::Status CheckModelName(const std::string& name, const ServedModel& model) {
  if (name.empty() || name == model.name) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrCat("model \"", Shortened(name), "\" is not served here, \"", model.name, "\" is"));
}

SamplingParams DefaultSampling(const SamplingDefaults& authors) {
  SamplingParams params;
  const auto set = [](const auto& value, auto& param) {
    if (value) param = static_cast<std::decay_t<decltype(param)>>(*value);
  };
  set(authors.temperature, params.temperature);
  set(authors.top_k, params.top_k);
  set(authors.top_p, params.top_p);
  set(authors.min_p, params.min_p);
  set(authors.repetition_penalty, params.repetition_penalty);
  return params;
}

double MeanTokenBytes(const Tokenizer& tokenizer) {
  double bytes = 0;
  for (int32_t token = 0; token < tokenizer.vocab_size(); ++token) {
    bytes += static_cast<double>(tokenizer.TokenBytes(token, /*render_special=*/true).size());
  }
  return bytes / std::max(1, tokenizer.vocab_size());
}

int MaxContinuations(const ServedModel& model) {
  return std::min(model.limits.n, model.max_sequences);
}

int MaxPromptTokens(const ServedModel& model) {
  const int context = model.context_tokens - 1;
  return model.limits.prompt_tokens > 0 ? std::min(model.limits.prompt_tokens, context) : context;
}

}  // namespace winnow

#pragma once

#include <optional>
#include <string>

#include "engine/attention/policy.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace winnow {

/// What requests may ask of attention.
struct AttentionLimits {
  AttentionPolicy default_policy;  ///< of requests that name none
  double min_sparsity = 1;         ///< 1 lets requests ask for dense attention
  double max_sparsity = 64;
  bool has_labels = false;  ///< "double-sparsity" is possible
};

/// Most that one request may ask for.
struct RequestLimits {
  int prompt_tokens = 0;  ///< 0: as many as the context leaves room for
  int n = 16;
  int stop_strings = 16;
  int logit_bias_entries = 1024;
};

/// What the services need to know of the model behind the engine. Immutable while serving.
struct ServedModel {
  std::string name;          ///< what requests may call it
  std::string title;         ///< what the model file calls itself
  std::string architecture;  ///< "llama", "qwen2", ...
  int context_tokens = 0;    ///< most tokens of one sequence here
  int trained_context_tokens = 0;
  int max_sequences = 0;  ///< sequences that the engine computes at a time
  int min_priority = 0;   ///< lowest value, which comes first, that requests may ask for
  AttentionLimits attention;
  RequestLimits limits = {};
  const Tokenizer* tokenizer = nullptr;
  std::optional<ChatTemplate> chat;  ///< none: the model has no template that Winnow knows
};

}  // namespace winnow

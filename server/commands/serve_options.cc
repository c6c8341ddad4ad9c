#include "server/commands/serve_options.h"

#include <algorithm>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/attention/policy.h"

namespace winnow {
namespace {

// The host's memory is there for others, too; a device's is the server's.
bool HasOwnMemory(const ServeFlags& flags) { return flags.device != "cpu"; }

bool TakesWhatIsLeft(const ServeFlags& flags) {
  return HasOwnMemory(flags) && flags.kv_tokens == 0;
}

}  // namespace

int LongestContext(const ServeFlags& flags) {
  if (flags.max_context > 0) return flags.max_context;
  if (HasOwnMemory(flags)) return flags.kv_tokens;
  return flags.kv_tokens > 0 ? std::min(flags.kv_tokens, kDefaultMaxContext) : kDefaultMaxContext;
}

absl::StatusOr<EngineOptions> MakeEngineOptions(const ServeFlags& flags,
                                                const ModelConfig& config) {
  EngineOptions options;
  options.max_context = flags.max_context;
  if (options.max_context == 0) {
    const int longest = LongestContext(flags);
    options.max_context = longest > 0 ? std::min(longest, config.max_context) : config.max_context;
  }
  if (options.max_context > config.max_context) {
    return absl::InvalidArgumentError(absl::StrCat("--max-context ", options.max_context,
                                                   " is beyond the ", config.max_context,
                                                   " tokens that the model was trained for"));
  }
  if (!TakesWhatIsLeft(flags)) {
    const int kv_tokens =
        flags.kv_tokens > 0 ? flags.kv_tokens : std::max(kDefaultKvTokens, options.max_context);
    if (kv_tokens < options.max_context) {
      return absl::InvalidArgumentError(absl::StrCat("--kv-tokens ", kv_tokens,
                                                     " can't hold one sequence of --max-context ",
                                                     options.max_context, " tokens"));
    }
    options.kv_blocks = (kv_tokens + options.block_tokens - 1) / options.block_tokens;
  }
  options.max_step_tokens = flags.max_step_tokens;
  options.max_running_sequences = flags.max_running;
  options.max_waiting_requests = flags.max_waiting;
  options.max_waiting_tokens = flags.max_waiting_tokens;
  options.recall = flags.recall;
  return options;
}

absl::Status FitToPool(const ServeFlags& flags, int kv_blocks, EngineOptions& options) {
  options.kv_blocks = kv_blocks;
  const int tokens = kv_blocks * options.block_tokens;
  if (tokens >= options.max_context) return absl::OkStatus();
  if (flags.max_context > 0) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "one sequence of --max-context ", flags.max_context,
        " tokens does not fit into the device's memory, which holds a KV pool of ", tokens));
  }
  options.max_context = tokens;
  return absl::OkStatus();
}

absl::StatusOr<AttentionLimits> MakeAttentionLimits(const ServeFlags& flags) {
  AttentionLimits limits;
  limits.has_labels = !flags.label_file.empty();
  limits.min_sparsity = flags.min_sparsity;
  limits.max_sparsity = flags.max_sparsity;
  if (limits.min_sparsity > limits.max_sparsity) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--min-sparsity ", limits.min_sparsity, " is above --max-sparsity ", limits.max_sparsity));
  }
  AttentionPolicy& policy = limits.default_policy;
  const std::string fallback = limits.has_labels ? "double-sparsity" : "dense";
  const absl::StatusOr<SelectionKind> kind =
      ParsePolicyName(flags.policy.empty() ? fallback : flags.policy);
  if (!kind.ok() || *kind == SelectionKind::kScores) {
    return absl::InvalidArgumentError(
        absl::StrCat("--policy must be dense, double-sparsity or window, is ", flags.policy));
  }
  policy = {*kind, flags.sparsity, flags.budget_tokens};
  if (*kind == SelectionKind::kLabels && !limits.has_labels) {
    return absl::InvalidArgumentError(
        "--policy double-sparsity needs a --label-file, which `winnow calibrate` makes");
  }
  const double sparsity = *kind == SelectionKind::kAll ? 1 : policy.sparsity;
  if (sparsity < limits.min_sparsity || sparsity > limits.max_sparsity) {
    return absl::InvalidArgumentError(
        absl::StrCat("the default policy's sparsity ", sparsity, " is not within --min-sparsity ",
                     limits.min_sparsity, " and --max-sparsity ", limits.max_sparsity));
  }
  return limits;
}

}  // namespace winnow

#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/attention/policy.h"
#include "engine/eval/sequence_runner.h"
#include "engine/model/forward_pass.h"

namespace winnow {

/// A question, and the texts that may follow it.
struct ChoiceCase {
  std::vector<int32_t> prompt;                ///< tokens, at least one
  std::vector<std::vector<int32_t>> choices;  ///< tokens, at least one of each
  std::vector<int> characters;                ///< [choices]: of each one's text, at least one
  int answer = 0;                             ///< which choice is right
};

/// How cases are scored.
struct ChoiceOptions {
  /// Last tokens of the prompt that go through the decode path, as the choices' tokens do. With 0
  /// the whole prompt is computed densely, and a choice's first token, which the prompt's last row
  /// predicts, costs a policy nothing.
  int sparse_tail = 64;
  int block_tokens = 0;  ///< of the model's KV pool, which holds a prompt and a choice
  int step_rows = 256;   ///< rows of a step; changes memory and speed, not the result
};

/// What a policy holds for likely.
struct ChoiceResult {
  AttentionPolicy policy = {};
  KvTraffic traffic = {};  ///< of all rows through the decode path
  /// [cases][choices]: the log-likelihood of each choice's tokens after the prompt.
  std::vector<std::vector<double>> log_likelihoods = {};
  /// [cases]: the choice of the greatest log-likelihood, the first among equals.
  std::vector<int> chosen = {};
  int correct = 0;  ///< cases where that is the answer
  /// The same of log-likelihoods divided by the choices' characters, which does not favour short
  /// choices.
  int correct_by_length = 0;
};

/// Scores every choice of every case through every policy. A prompt's dense part is computed once
/// for all policies. An error means that the device failed.
absl::StatusOr<std::vector<ChoiceResult>> EvalChoice(ForwardPass& model,
                                                     std::span<const ChoiceCase> cases,
                                                     std::span<const AttentionPolicy> policies,
                                                     const ChoiceOptions& options,
                                                     const RowsObserver& observer = {});

/// Rows that EvalChoice tells its observer of, for a progress bar.
int64_t ChoiceRows(std::span<const ChoiceCase> cases, const ChoiceOptions& options, int policies);

/// Tokens of the longest prompt with its longest choice.
int LongestCase(std::span<const ChoiceCase> cases);

}  // namespace winnow

#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/attention/policy.h"
#include "engine/eval/sequence_runner.h"
#include "engine/model/forward_pass.h"
#include "engine/text/tokenizer.h"

namespace winnow {

/// How prompts are answered.
struct AnswerOptions {
  /// Last tokens of the prompt that go through the decode path. With 0 the whole prompt is computed
  /// densely, and the answer's first token, which the prompt's last row predicts, costs a policy
  /// nothing.
  int sparse_tail = 64;
  int max_tokens = 32;   ///< of an answer, at least 1
  int block_tokens = 0;  ///< of the model's KV pool, which holds a prompt and its answer
  int step_rows = 256;   ///< rows of a step; changes memory and speed, not the result
};

/// What a policy answered.
struct PolicyAnswers {
  AttentionPolicy policy = {};
  KvTraffic traffic = {};                 ///< of all rows through the decode path
  std::vector<std::string> answers = {};  ///< [prompts]
  /// [prompts] log of the probability of the expected answer; empty where none are.
  std::vector<double> log_likelihoods = {};
};

/// What is asked. Prompts and expected answers have at least one token each.
struct Questions {
  std::vector<std::vector<int32_t>> prompts = {};
  std::vector<std::vector<int32_t>> expected = {};  ///< [prompts], or empty: no answers are scored
};

/// Answers every prompt through every policy, greedily, up to a token that ends a generation or
/// until `is_whole` holds of the answer's bytes; null: it never does. Expected answers are scored
/// through the same policies. A prompt's dense part is computed once for all of them. An error
/// means that the device failed.
absl::StatusOr<std::vector<PolicyAnswers>> AnswerPrompts(
    ForwardPass& model, const Tokenizer& tokenizer, const Questions& questions,
    std::span<const AttentionPolicy> policies, const AnswerOptions& options,
    const std::function<bool(std::string_view answer)>& is_whole,
    const RowsObserver& observer = {});

/// Cuts a prompt of more than `tokens` down to them: its middle goes, as in LongBench. REQUIRES:
/// tokens is at least 1.
void DropMiddle(int tokens, std::vector<int32_t>* prompt);

/// Tokens that the longest prompt needs with its answer.
int LongestQuestion(const Questions& questions, const AnswerOptions& options);

/// Rows that AnswerPrompts tells its observer of, for a progress bar.
int64_t AnswerRows(const Questions& questions, const AnswerOptions& options, int policies);

}  // namespace winnow

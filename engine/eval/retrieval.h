#pragma once

#include <cstdint>
#include <optional>
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

/// A question about a number that stands somewhere in the prompt.
struct RetrievalCase {
  std::vector<int32_t> prompt;  ///< tokens, at least one
  int64_t expected_number = 0;
};

/// How cases are answered.
struct RetrievalOptions {
  /// Last tokens of the prompt that go through the decode path. With 0 the whole prompt is computed
  /// densely, and the answer's first token, which the prompt's last row predicts, costs a policy
  /// nothing.
  int sparse_tail = 64;
  int max_tokens = 32;   ///< of an answer, at least 1
  int block_tokens = 0;  ///< of the model's KV pool, which holds a prompt and its answer
  int step_rows = 256;   ///< rows of a step; changes memory and speed, not the result
};

/// How many cases a policy got right.
struct RetrievalResult {
  AttentionPolicy policy = {};
  int correct = 0;
  int total = 0;
  KvTraffic traffic = {};                 ///< of all rows through the decode path
  std::vector<std::string> answers = {};  ///< [cases]
};

/// Answers every case through every policy, greedily, up to the end of the first number. An answer
/// is correct if that is the expected one. A prompt's dense part is computed once for all policies.
/// An error means that the device failed.
absl::StatusOr<std::vector<RetrievalResult>> EvalRetrieval(
    ForwardPass& model, const Tokenizer& tokenizer, std::span<const RetrievalCase> cases,
    std::span<const AttentionPolicy> policies, const RetrievalOptions& options,
    const RowsObserver& observer = {});

/// Rows that EvalRetrieval tells its observer of, for a progress bar.
int64_t RetrievalRows(std::span<const RetrievalCase> cases, const RetrievalOptions& options,
                      int policies);

/// The number that the first digits of `text` spell, none if there are no digits or more than 18.
std::optional<int64_t> FirstNumber(std::string_view text);

}  // namespace winnow

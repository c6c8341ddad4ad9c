#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/selection.h"

namespace winnow {

/// How the tokens that a request generates attend to what came before them. Prompts are always
/// computed densely.
struct AttentionPolicy {
  SelectionKind kind = SelectionKind::kAll;
  double sparsity = 16;   ///< n >= 1: a KV head of mean weight attends to 1/n of its context
  int budget_tokens = 0;  ///< if above 0: to this many tokens instead
};

/// The name of a policy, spelled the same everywhere: "dense", "double-sparsity", "window",
/// "true-scores".
std::string_view PolicyName(SelectionKind kind);

/// The reverse; INVALID_ARGUMENT lists the names.
absl::StatusOr<SelectionKind> ParsePolicyName(std::string_view name);

/// What a row of the policy selects, its budget multiplied with `boost`.
Selection SelectionOf(const AttentionPolicy& policy, int boost = 1);

/// How selection works in all layers and sequences.
struct SelectionOptions {
  int sinks = 4;                 ///< first tokens, always attended to
  int window = 16;               ///< most recent tokens, always attended to
  int min_context = 0;           ///< shorter contexts stay dense
  int dense_layers = 0;          ///< first layers, that stay dense
  bool uniform_budgets = false;  ///< ignore the label file's spread of the budget over the heads
  bool tail = true;              ///< estimate what is not chosen, as the label file says
};

/// What the attention of some rows reads, over all layers and KV heads.
struct KvTraffic {
  int64_t dense_bytes = 0;       ///< keys and values of whole contexts
  int64_t row_bytes = 0;         ///< keys and values of selected tokens
  int64_t label_bytes = 0;       ///< labels of whole contexts
  int64_t summary_bytes = 0;     ///< what estimates of tokens that are not chosen are made of
  int64_t equivalent_bytes = 0;  ///< what dense attention would have read
  int64_t attended_tokens = 0;   ///< summed over rows, layers and KV heads
  int64_t context_tokens = 0;    ///< likewise: what they chose from
  int64_t heads = 0;             ///< rows times layers times KV heads

  int64_t bytes() const { return dense_bytes + row_bytes + label_bytes + summary_bytes; }
  KvTraffic& operator+=(const KvTraffic& other);
};

}  // namespace winnow

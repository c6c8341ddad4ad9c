#pragma once

#include <cstdint>

namespace winnow::test {

/// A KV head that selects by labels.
struct BudgetQuestion {
  float weight = 1;
  float fraction = 1;
  int32_t budget_tokens = 0;
  int32_t context = 0;
};

/// Its BudgetTokens, compiled so that products and sums are contracted wherever the language allows
/// it, for a processor that can do that.
int32_t ContractedBudget(const BudgetQuestion& question);

}  // namespace winnow::test

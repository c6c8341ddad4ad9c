// BudgetTokens as compilers for devices make it: products and sums that follow each other
// contracted to one operation (see CMakeLists.txt).

#include "tests/kernels/contracted_budgets.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

// Under another name, or the linker would take one of the two for both.
#define winnow winnow_contracted
#include "kernels/selection.h"
#undef winnow

namespace winnow::test {

int32_t ContractedBudget(const BudgetQuestion& question) {
  winnow_contracted::Selection selection;
  selection.kind = winnow_contracted::SelectionKind::kLabels;
  selection.fraction = question.fraction;
  selection.budget_tokens = question.budget_tokens;
  winnow_contracted::LayerAttention layer;
  layer.budget_weights = &question.weight;
  return BudgetTokens(selection, layer, 0, question.context);
}

}  // namespace winnow::test

#include "kernels/cuda/step_shape.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace winnow::cuda {
namespace {

constexpr int kLeastContext = 256;
constexpr int kLeastBlocks = 16;
// Lists may well be longer than needed, which costs memory only, and requests ask for any budget:
// powers of two.
constexpr int32_t kLeastBudget = 64;
constexpr int32_t kMostBudget = 1 << 30;

int RoundUp(int value, int least) {
  value = std::max(value, 1);
  const auto power = static_cast<int>(std::bit_floor(static_cast<unsigned>(value)));
  const int unit = std::max(least, power / 8);
  return (value + unit - 1) / unit * unit;
}

int32_t RoundBudget(int32_t tokens) {
  if (tokens == 0) return 0;
  return static_cast<int32_t>(
      std::bit_ceil(static_cast<uint32_t>(std::clamp(tokens, kLeastBudget, kMostBudget))));
}

}  // namespace

int RoundContext(int tokens) { return RoundUp(tokens, kLeastContext); }
int RoundBlocks(int blocks) { return RoundUp(blocks, kLeastBlocks); }
int RoundRenewals(int renewals) {
  return static_cast<int>(std::bit_ceil(static_cast<unsigned>(renewals)));
}

void StepShape::AddDecodeRow(const Selection& selection, int context) {
  ++decode_rows;
  max_context = std::max(max_context, context);
  // The exact product, so that BudgetTokens makes no less of it whatever the weight.
  const int32_t tokens =
      selection.budget_tokens > 0
          ? selection.budget_tokens
          : static_cast<int32_t>(std::ceil(double{selection.fraction} * context));
  switch (selection.kind) {
    case SelectionKind::kAll:
      break;
    case SelectionKind::kLabels:
      labels = std::max(labels, tokens);
      break;
    case SelectionKind::kWindow:
      window = std::max(window, tokens);
      break;
    case SelectionKind::kScores:
      scores = std::max(scores, tokens);
      break;
  }
}

void StepShape::Round(int blocks) {
  max_context = RoundContext(max_context);
  max_blocks = RoundBlocks(blocks);
  labels = RoundBudget(labels);
  window = RoundBudget(window);
  scores = RoundBudget(scores);
  if (renewals > 0) renewals = RoundRenewals(renewals);
}

int32_t StepShape::MaxSelected(const LayerAttention& attention, int kv_heads) const {
  if (max_context < attention.min_context || attention.sliding_window > 0) return 0;
  int32_t most = 0;
  const auto add = [&](SelectionKind kind, int32_t tokens) {
    for (int g = 0; tokens > 0 && g < kv_heads; ++g) {
      most = std::max(most, BudgetTokens({kind, 1, tokens}, attention, g, max_context));
    }
  };
  add(SelectionKind::kLabels, labels);
  add(SelectionKind::kWindow, window);
  add(SelectionKind::kScores, scores);
  return most;
}

}  // namespace winnow::cuda

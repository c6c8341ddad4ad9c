#pragma once

#include <vector>

#include "engine/calibration/calibration_statistics.h"
#include "engine/calibration/label_basis.h"

namespace winnow {

/// Tokens that a step always attends to, as the engine's defaults have them.
struct ForcedTokens {
  int sinks = 4;
  int window = 16;
};

/// Shares of the context at which errors are measured, ascending: 1/64 to 1/4 in quarters of a
/// doubling. With larger shares the diffuse heads of the first layer, whose errors are large beside
/// the small residual stream there, take more of a small total than they are worth
/// (docs/accuracy.md).
const std::vector<double>& BudgetFractions();

/// What attending to selected tokens only, instead of all, changes in the output of one KV head's
/// group: mean |W (o_selected - o_all)|^2 / mean |x|^2 over the measured queries, W the group's
/// part of the output projection and x the residual stream, at each of BudgetFractions().
///
/// The selection is that of decode: approximate scores scale (A q_h) . z with z = B k
/// quantised to 4 bits over `ranges`; mean over the group's heads of the softmaxes of the scores;
/// forced tokens, then the best others, ties to the earlier, up to ceil(fraction context) tokens,
/// at least the forced ones. Then exact attention over what was selected. REQUIRES: the statistics
/// hold measured windows and the layer selects.
std::vector<double> MeasureSelectionErrors(const CalibrationStatistics& statistics, int layer,
                                           int kv_head, const LabelBasis& basis,
                                           const LabelRanges& ranges, const ForcedTokens& forced);

}  // namespace winnow

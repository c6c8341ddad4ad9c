#pragma once

#include <span>
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

/// What attending to selected tokens, instead of all, changes in the output of one KV head's group:
/// mean |W (o_selected - o_all)|^2 / mean |x|^2 over the measured queries, W the group's part of
/// the output projection and x the residual stream. A curve for each of `tail_weights`,
/// [tail_weights] [BudgetFractions()].
///
/// The selection is that of decode: approximate scores scale (A q_h) . z with z = B k
/// quantised to 4 bits over `ranges`; mean over the group's heads of the softmaxes of the scores;
/// forced tokens, then the best others, ties to the earlier, up to ceil(fraction context) tokens,
/// at least the forced ones. Then exact attention over what was selected. What was not counts by
/// the tail weight, as the summary of what comes before the query estimates it (Backend::Attention,
/// kernels/summary.h), also where a short context has it left out (TailWeight); 0 leaves it out.
/// REQUIRES: the statistics hold measured windows and the layer selects; with tail weights above 0,
/// its scores have no soft cap.
std::vector<std::vector<double>> MeasureSelectionErrors(
    const CalibrationStatistics& statistics, int layer, int kv_head, const LabelBasis& basis,
    const LabelRanges& ranges, const ForcedTokens& forced, std::span<const double> tail_weights);

}  // namespace winnow

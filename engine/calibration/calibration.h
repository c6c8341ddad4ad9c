#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/calibration/calibration_statistics.h"
#include "engine/calibration/channel_import.h"
#include "engine/calibration/selection_error.h"
#include "engine/model/label_file.h"

namespace winnow {

/// What kind of label file to make.
struct CalibrationOptions {
  std::string basis = "projection";          ///< or "channels"
  std::string ranking = "qk-centred";        ///< of channels, as RankChannels has them
  const ChannelRanking* imported = nullptr;  ///< ranks channels instead of `ranking`, if set
  int width = 16;                            ///< numbers of a label
  bool budgets_by_head = true;               ///< else every KV head has the same budget
  /// Whether it is measured how much what is not chosen is to count; only with budgets by head, and
  /// where the layers' scores have no soft cap, which labels do not foresee.
  bool tail = true;
  double sparsity = 16;  ///< the n of the total context / n that is spread over the heads
  ForcedTokens forced;
  int threads = 0;  ///< 0: one per core
};

/// INVALID_ARGUMENT when the width, basis, ranking or sparsity is none of those possible for a
/// model of that head size.
absl::Status CheckCalibrationOptions(const CalibrationOptions& options, int head_dim);

/// A label file and what was measured on the way.
struct CalibrationResult {
  LabelFile file;
  /// Sums over all KV heads of the errors that selection leaves at the sparsity
  /// (MeasureSelectionErrors), where what is not chosen counts as much as errs least: with the same
  /// budget for each, and as spread by the file; and as spread, where it is left out. Zero when not
  /// measured.
  double uniform_error = 0;
  double spread_error = 0;
  double left_out_error = 0;
};

/// Makes a label file from statistics; its text_hash is left empty. `progress` is called on one
/// thread at a time. Errors are those of CheckCalibrationOptions, and FAILED_PRECONDITION when
/// budgets by head are wanted and the statistics hold no measured windows.
absl::StatusOr<CalibrationResult> MakeLabelFile(const CalibrationStatistics& statistics,
                                                const CalibrationOptions& options,
                                                const CalibrationProgress& progress);

/// Cuts `windows` pieces of `window_tokens` out of a text's tokens, evenly spaced from its start to
/// its end. `prefix` (a BOS token, or nothing) is put in front of each and counts.
/// INVALID_ARGUMENT when the text is too short for pieces that do not overlap.
absl::StatusOr<std::vector<std::vector<int32_t>>> CutWindows(std::span<const int32_t> text,
                                                             std::span<const int32_t> prefix,
                                                             int windows, int window_tokens);

}  // namespace winnow

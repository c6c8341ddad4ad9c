#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/label_scores.h"
#include "kernels/summary.h"

namespace winnow::cpu {

/// Tokens of one KV head whose keys, values and labels are summarised.
struct SummaryTokens {
  const uint16_t* const* keys;   ///< [count] fp16 [head_dim] each, followed by the value
  const uint8_t* const* labels;  ///< [count] at LabelOffset of the token's slot
  int count;                     ///< at most kSummaryPiece
};

/// What is needed for one call. Grows where nothing was reserved.
struct SummaryScratch {
  std::vector<float> tokens;       ///< [kSummaryPiece, width + head_dim]: codes and value
  std::vector<double> covariance;  ///< [width, width]
  std::vector<double> slopes;      ///< [width, head_dim]

  /// Makes room for summaries of the shape.
  void Fit(const SummaryShape& shape);
};

/// Adds the tokens to totals and moments, `sums`.
void AddToSummary(const SummaryShape& shape, const SummaryTokens& tokens, SummaryScratch* scratch,
                  float* sums);

/// Makes means and slopes, `estimate` in fp16, of totals and moments of `tokens` tokens, at least
/// one. What fp16 has no room for becomes the largest that it has.
void SolveSummary(const SummaryShape& shape, int64_t tokens, const float* sums,
                  SummaryScratch* scratch, uint16_t* estimate);

/// What labels say of the tokens that a query head has not chosen.
struct LabelTail {
  float log2_sum;          ///< of 2^score, with the scores of ScoreLabels
  const float* mean_code;  ///< [width], weighted with 2^score; null: that of the summary
};

/// Those tokens as one more piece of the head's softmax. Their scores are those of their labels,
/// but as far above the mean key's score as they are above that of the mean label; their mean value
/// is what the regression says of their mean label. `estimate` is of SolveSummary, `scale` that of
/// q . k; `partial` is {log of the sum of their exponentials, 1, mean value}.
void EstimateTail(const SummaryShape& shape, const uint16_t* estimate, const float* query,
                  const LabelQuery& label_query, float scale, const LabelTail& tail,
                  Partial* partial);

}  // namespace winnow::cpu

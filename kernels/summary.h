#pragma once

#include <cstdint>

namespace winnow {

/// Tokens by which the summary of a sequence grows.
inline constexpr int32_t kSummaryPiece = 64;

/// How many of a sequence's first tokens are summarised for a row at `position`: the whole pieces
/// before it.
constexpr int32_t SummarisedTokens(int32_t position) {
  return position / kSummaryPiece * kSummaryPiece;
}

/// Whether something is summarised for a row at `position`: sinks are not, they are always chosen.
constexpr bool HasSummary(int32_t position, int32_t sinks) {
  return SummarisedTokens(position) > sinks;
}

/// Where the summary of a sequence's keys, values and labels is kept (docs/label-cache.md).
struct SummarySlot {
  int32_t slot = -1;  ///< of KvShape::summary_slots; -1: the sequence has none
  /// The sequence's first tokens that it holds. A step in which the first row of the sequence is at
  /// `position` leaves SummarisedTokens(position) in it, and needs no more than so many before.
  int32_t tokens = 0;

  /// Before a step whose first row is at `position`: where that is computed anew, what it changes
  /// is forgotten, and with it the rest.
  void Begin(int32_t position) {
    if (position < tokens) tokens = 0;
  }
  /// After that step.
  void End(int32_t position) { tokens = SummarisedTokens(position); }

  bool operator==(const SummarySlot&) const = default;
};

/// How the numbers of one KV head lie in a slot. With a token's label codes c, value v and key k,
/// in fp32 and summed over the summarised tokens but the sinks:
///   totals  [width + 2 head_dim]      sum of c, v, k
///   moments [width, width + head_dim] sum of c[i] (c, v)
/// and behind them, in fp16, what is made of them whenever they grow and rows read, the estimate:
///   means   [width + 2 head_dim]      of c, v, k
///   slopes  [width, head_dim]         of the ridge regression of v on c:
///     (Cov(c) + kSummaryRidge trace(Cov(c)) / width)^-1 Cov(c, v)
struct SummaryShape {
  int width;
  int head_dim;

  constexpr int64_t rows() const { return width + 2 * int64_t{head_dim}; }  ///< of totals and means
  constexpr int64_t totals() const { return 0; }
  constexpr int64_t moments() const { return rows(); }
  /// Of totals and moments, in floats: where the estimate begins.
  constexpr int64_t sums() const { return moments() + int64_t{width} * (width + head_dim); }
  /// Of the estimate, in halves.
  constexpr int64_t estimate_halves() const { return rows() + int64_t{width} * head_dim; }
  constexpr int64_t estimate_bytes() const { return estimate_halves() * 2; }
  /// Of everything, in floats.
  constexpr int64_t floats() const { return sums() + estimate_halves() / 2; }
};

/// Mean codes of what a row has not chosen are those of a sample of its tokens, a quarter of them,
/// by their weights: label error outweighs what the others would tell (docs/accuracy.md).
/// Of every kSampleStride tokens it is the first kSampledTokens.
inline constexpr int32_t kSampleStride = 128;
inline constexpr int32_t kSampledTokens = 32;
constexpr bool IsSampled(int32_t position) { return position % kSampleStride < kSampledTokens; }

/// Keeps the regression sound where labels hardly vary.
inline constexpr double kSummaryRidge = 0.01;

}  // namespace winnow

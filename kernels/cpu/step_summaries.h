#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/summary.h"
#include "kernels/cpu/thread_pool.h"

namespace winnow::cpu {

/// The summaries of one layer that the rows of a step estimate by. A slot grows by what lies before
/// its sequence's first row, whatever else the step computes: that stays as it is, while rows may
/// be guesses that are computed anew. Rows further on find longer summaries, made for this step
/// alone. A summary is a function of the blocks' contents, so that it may be made anew at any time.
class StepSummaries {
 public:
  explicit StepSummaries(ThreadPool& pool) : pool_(pool), scratch_(pool.threads()) {}

  /// Makes room for any step within the limits.
  void Reserve(const StepLimits& limits);

  /// Brings the slots of the batch's sequences up to date. What lies before the batch's rows has
  /// been stored, and the rows themselves.
  void Renew(const StepBatch& batch, const KvView& kv, int sinks);

  /// Means and slopes in fp16 (SummaryShape) for the row at `position` of a sequence of the batch
  /// that Renew was called with; null if there are none (HasSummary).
  const uint16_t* Estimate(int sequence, int position, int kv_head) const;

 private:
  struct Sequence {
    float* slots = nullptr;  ///< of the KV heads, one after another; null: there is none
    int32_t tokens = 0;      ///< that they hold
    int32_t last = 0;        ///< that the sequence's last row wants
    int64_t longer = 0;      ///< where the estimates of this step begin, [kv_heads, pieces]
  };
  struct Scratch {
    SummaryScratch solve;
    std::vector<float> sums;  ///< of a summary that is longer than the slot's
  };

  void RenewHead(const StepBatch& batch, const KvView& kv, int sequence, int kv_head,
                 Scratch* scratch);

  ThreadPool& pool_;
  SummaryShape shape_ = {};
  int sinks_ = 0;
  std::vector<Sequence> sequences_;
  std::vector<uint16_t> longer_;
  std::vector<Scratch> scratch_;  ///< one per worker
};

}  // namespace winnow::cpu

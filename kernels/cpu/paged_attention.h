#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/aligned_floats.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/label_scores.h"
#include "kernels/cpu/label_sums.h"
#include "kernels/cpu/step_summaries.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cpu/top_tokens.h"

namespace winnow::cpu {

/// What one attention operator works on.
struct AttentionCall {
  const StepBatch& batch;
  Tensor qkv;  ///< [rows, (heads + 2 kv_heads) head_dim], rotated
  int heads;
  const KvView& kv;
  const LayerAttention& attention;
  Tensor out;  ///< [rows, heads head_dim]

  int group() const { return heads / kv.kv_heads; }
  /// The first position that a row at `position` sees.
  int FirstSeen(int position) const { return position + 1 - SeenTokens(attention, position + 1); }
  const float* query(int row, int head) const { return qkv.Row(row) + head * kv.head_dim; }
};

/// Backend::Attention and Backend::MeasureRecall of the CPU: splits the rows of a step into work
/// items. Dense rows of a prefill are tiled by queries, each tile walking its context in chunks.
/// Other dense rows have the chunks of each KV head spread over the workers.
///
/// A KV head of a row that selects scores its context, chooses positions and attends to them. Of
/// those that it does not choose it may sum labels up, which with the sequence's summary make one
/// more piece of what it attends to. Where there are many, each stays with one worker, so that its
/// scores stay in that processor's kv. A few heads share each of the rounds out. A row's chunks are
/// always merged in order, so that its numbers do not depend on how the work was divided.
///
/// Heads whose contexts come to too many tokens together are computed some after others, so that
/// there is a bound to the memory that any step takes.
class PagedAttention {
 public:
  explicit PagedAttention(ThreadPool& pool)
      : pool_(pool), summaries_(pool), scratch_(pool.threads()) {}

  /// Makes room for any step within the limits.
  void Reserve(const StepLimits& limits);

  void Run(const AttentionCall& call);

  /// See Backend::MeasureRecall. call.out is not used.
  void MeasureRecall(const AttentionCall& call, std::span<const RecallProbe> probes,
                     ProbedMass* probed);

 private:
  /// Query rows of a prefill chunk times one KV head.
  struct Tile {
    int first_row;
    int rows;
    int kv_head;
    const int32_t* block_table;
  };

  /// One KV head of one row, on its own.
  struct Head {
    int row;
    int kv_head;
    const int32_t* block_table;
    SelectionKind kind;
    int begin;       ///< the first position that the row sees; 0 if it selects
    int context;     ///< behind the last one
    int budget;      ///< selected positions, or all that the row sees
    float tail = 0;  ///< how much what is not chosen counts (TailWeight)
    const uint16_t* estimate =
        nullptr;             ///< of its summary, fp16; null: what is not chosen is left out
    int64_t positions = 0;   ///< where they begin in positions_; unused if dense
    int64_t queries = 0;     ///< where its queries begin in label_queries_, [group]
    int64_t scores = 0;      ///< where its scores begin in scores_, if the rounds are shared out
    int64_t pieces = 0;      ///< where its score pieces begin in score_pieces_
    int64_t tail_codes = 0;  ///< where its sums begin in tail_codes_, [pieces, group, 2 + width]
    int64_t partials = 0;    ///< where its partials begin in partials_, [chunks, group]

    bool selects() const { return budget < context - begin; }
    /// What is attended to comes in chunks: of selected positions, or of positions from 0 on.
    int first_chunk() const { return begin / kChunkTokens; }
    int end() const { return selects() ? budget : context; }  ///< of the last chunk
    int chunks() const { return (end() + kChunkTokens - 1) / kChunkTokens - first_chunk(); }
  };

  /// Part `index` of a head's context or selection.
  struct Item {
    int32_t head;
    int32_t index;
  };

  /// Softmax state of one query head over one piece of the context, in units of log 2.
  struct ScorePiece {
    float reference;  ///< score of weight 1
    float sum;        ///< of weights
  };

  /// What a worker needs for one item.
  struct Scratch {
    AlignedFloats selection;  ///< scores that positions are chosen by
    std::vector<float> scores;
    std::vector<float> outs;
    std::vector<Partial> chunk;
    std::vector<Partial> total;
    TopTokensScratch top_tokens;
  };

  Head HeadOf(const AttentionCall& call, int sequence, int row, int kv_head) const;
  static int64_t ScoreRows(const AttentionCall& call, const Head& head);
  void ClearPlan();
  bool PlanHead(const AttentionCall& call, Head head);
  void RunPlanned(const AttentionCall& call);
  void PlacePartials(int head_dim);
  void ShareOut(const AttentionCall& call);
  void ProjectQueries(const AttentionCall& call, const Head& head);
  void ScorePart(const AttentionCall& call, const Head& head, int piece, float* scores);
  void ChoosePositions(const AttentionCall& call, const Head& head, float* scores,
                       TopTokensScratch* scratch);
  void SelectAlone(const AttentionCall& call, const Head& head, Scratch* scratch);
  void AskForRows(const AttentionCall& call, const Head& head) const;
  void SumTail(const AttentionCall& call, const Head& head, int piece, float* scores);
  void SumTails(const AttentionCall& call, const Head& head, float* scores);
  const Partial* Tail(const AttentionCall& call, const Head& head, int h);
  void AttendSelecting(const AttentionCall& call, const Head& head, Scratch* scratch);
  void AttendTile(const AttentionCall& call, const Tile& tile, Scratch* scratch);
  void AttendPart(const AttentionCall& call, const Head& head, int chunk, Scratch* scratch);
  void Merge(const AttentionCall& call, const Head& head);
  ProbedMass Probe(const AttentionCall& call, const Head& head, Scratch* scratch);

  ThreadPool& pool_;
  StepSummaries summaries_;
  // What is planned but not computed.
  int64_t planned_tokens_ = 0;  ///< of the heads' contexts
  std::vector<Tile> tiles_;
  std::vector<Head> heads_;
  std::vector<int32_t> selecting_;  ///< of heads_
  std::vector<Item> score_items_;
  std::vector<Item> tail_items_;
  std::vector<Item> attend_items_;
  std::vector<LabelQuery> label_queries_;
  /// [heads, group (and one that is chosen by, before tails), padded context], if the rounds are
  /// shared out
  AlignedFloats scores_;
  std::vector<ScorePiece> score_pieces_;
  std::vector<float> tail_codes_;
  std::vector<int32_t> positions_;
  std::vector<Partial> partials_;
  std::vector<float> partial_outs_;
  std::vector<Scratch> scratch_;  ///< one per worker
};

}  // namespace winnow::cpu

#include "kernels/cpu/paged_attention.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <numbers>
#include <numeric>
#include <span>

namespace winnow::cpu {
namespace {

// Query rows of a prefill chunk that one work item attends with.
constexpr int kQueryTile = 16;
constexpr int kMaxGroup = 64;
// Context tokens that one work item scores: a multiple of every block size.
constexpr int kPieceTokens = 2048;
constexpr int kMinBlockTokens = 8;
// Selecting heads for each worker from which on they are not divided.
constexpr int kWholeHeads = 4;
// Tokens of the contexts of heads that are planned together, if it is more than one head. One takes
// some 4 bytes, and as many for each query head of 128 dimensions.
constexpr int64_t kPlannedTokens = int64_t{1} << 22;

// Of chosen rows that are asked for at once: second-level caches hold twice as much, at least.
constexpr int kAheadBytes = 256 << 10;
constexpr int kLineBytes = 64;
// Of a softmax: less is lost in its sum in fp32.
constexpr float kLeastTail = 0x1p-18f;

constexpr int kScoreAlignment = 16;
int64_t PaddedScores(int context) {
  // One more vector, because choosing reads from an unaligned position on.
  return (context + kScoreAlignment - 1) / kScoreAlignment * kScoreAlignment + kScoreAlignment;
}

int Pieces(int count, int size) { return (count + size - 1) / size; }

// Labels of positions [first, first + count) of a KV head, and of up to kLabelsAhead more.
struct ListedLabels {
  ListedLabels(const KvView& kv, const int32_t* block_table, int kv_head, int context, int first,
               int count)
      : labels{blocks, kv.block_tokens, kv.label_width, count,
               std::min(count + kLabelsAhead, context - first)} {
    for (int b = 0; b * kv.block_tokens < labels.listed; ++b) {
      blocks[b] = kv.head_labels(block_table[first / kv.block_tokens + b], kv_head);
    }
  }
  ListedLabels(const ListedLabels&) = delete;
  ListedLabels& operator=(const ListedLabels&) = delete;

  const uint8_t* blocks[(kPieceTokens + kLabelsAhead) / kPanelTokens];
  LabelBlocks labels;
};

ScoreForm FormOf(const AttentionCall& call) {
  return {ScoreScale(call.attention, call.kv.head_dim), call.attention.soft_cap};
}

// Scores in units of log 2, which SoftmaxWeights2 turns into weights.
ScoreForm Log2FormOf(const AttentionCall& call) {
  const ScoreForm form = FormOf(call);
  return {std::numbers::log2e_v<float> * form.scale, std::numbers::log2e_v<float> * form.soft_cap};
}

// Keys of consecutive positions [first, first + count) of a KV head; `keys` has room for `count`
// rounded up to kTileKeys.
void PointToContext(const AttentionCall& call, int kv_head, const int32_t* block_table, int first,
                    int count, const uint16_t** keys) {
  const KvView& kv = call.kv;
  for (int j = 0; j < count;) {
    const int position = first + j;
    const int32_t id = block_table[position / kv.block_tokens];
    const int slot = position % kv.block_tokens;
    const uint16_t* key = kv.key(id, kv_head, slot);
    const int end = std::min(count, j + kv.block_tokens - slot);
    for (; j < end; ++j, key += kv.token_elements()) keys[j] = key;
  }
  for (int j = count; j % kTileKeys != 0; ++j) keys[j] = keys[count - 1];
}

// The same for what is visible of a chunk, whose positions begin at `chunk`: from where AttendChunk
// reads them. `keys` are those of all its positions.
void PointToVisible(const AttentionCall& call, int kv_head, const int32_t* block_table, int chunk,
                    const Visible& visible, const uint16_t** keys) {
  const int begin = visible.begin / kTileKeys * kTileKeys;
  PointToContext(call, kv_head, block_table, chunk + begin, visible.end - begin, keys + begin);
}

// The same for a list of positions.
void PointToPositions(const AttentionCall& call, int kv_head, const int32_t* block_table,
                      const int32_t* positions, int count, const uint16_t** keys) {
  const KvView& kv = call.kv;
  // Block sizes are powers of two; a division for every row would take as long as its product.
  const int shift = std::countr_zero(static_cast<uint32_t>(kv.block_tokens));
  for (int j = 0; j < count; ++j) {
    const int32_t id = block_table[positions[j] >> shift];
    const int slot = positions[j] & (kv.block_tokens - 1);
    keys[j] = kv.key(id, kv_head, slot);
  }
  for (int j = count; j % kTileKeys != 0; ++j) keys[j] = keys[count - 1];
}

// Exact scores of positions [first, first + count), in units of log 2.
void ScoreExactly(const AttentionCall& call, int row, int kv_head, const int32_t* block_table,
                  int first, int count, float* const* scores) {
  const int group = call.group();
  const float* queries[kMaxGroup];
  for (int h = 0; h < group; ++h) queries[h] = call.query(row, kv_head * group + h);
  for (int begin = 0; begin < count; begin += kChunkTokens) {
    const int tokens = std::min(kChunkTokens, count - begin);
    const uint16_t* keys[kChunkTokens];
    PointToContext(call, kv_head, block_table, first + begin, tokens, keys);
    float* at[kMaxGroup];
    for (int h = 0; h < group; ++h) at[h] = scores[h] + begin;
    ScoreKeys({keys, call.kv.head_dim}, queries, group, tokens, Log2FormOf(call), at);
  }
}

void WriteOutput(const AttentionCall& call, int row, int head, const Partial& total) {
  const int head_dim = call.kv.head_dim;
  float* out = call.out.Row(row) + head * head_dim;
  const float inverse = 1 / total.sum;
  for (int c = 0; c < head_dim; ++c) out[c] = total.out[c] * inverse;
}

bool Summarises(const AttentionCall& call) {
  return call.attention.tail_weights != nullptr && call.kv.summaries != nullptr;
}

}  // namespace

void PagedAttention::Reserve(const StepLimits& limits) {
  summaries_.Reserve(limits);
  for (const KvShape& layer : limits.layers) {
    const int64_t group = limits.heads / layer.kv_heads;
    const int64_t heads = int64_t{limits.rows} * layer.kv_heads;
    const int64_t context = limits.context;
    const int64_t tokens = std::min(heads * context, std::max(kPlannedTokens, context));
    const int64_t chunks = tokens / kChunkTokens + heads * (layer.summary_slots > 0 ? 2 : 1);
    const int64_t divided = std::min(heads, int64_t{kWholeHeads} * pool_.threads());
    const int64_t rows = group + (layer.summary_slots > 0 ? 1 : 0);  // of scores, as of ScoreRows
    const int64_t head_scores = rows * PaddedScores(limits.context);
    tiles_.reserve(heads);
    heads_.reserve(heads);
    selecting_.reserve(heads);
    score_items_.reserve(divided * Pieces(limits.context, kPieceTokens));
    attend_items_.reserve(chunks);
    label_queries_.reserve(heads * group);
    scores_.reserve(std::min(divided * head_scores, rows * (tokens + heads * PaddedScores(1))));
    score_pieces_.reserve((tokens / kPieceTokens + heads) * group);
    if (layer.summary_slots > 0) {
      tail_items_.reserve(divided * Pieces(limits.context, kPieceTokens));
      tail_codes_.reserve((tokens / kPieceTokens + heads) * group * (2 + layer.label_width));
    }
    positions_.reserve(tokens);
    partials_.reserve(chunks * group);
    partial_outs_.reserve(chunks * group * layer.head_dim);
    const int64_t queries = kQueryTile * group;
    for (Scratch& scratch : scratch_) {
      scratch.selection.reserve(head_scores);
      scratch.scores.reserve(queries * kChunkTokens);
      scratch.outs.reserve(2 * queries * layer.head_dim);
      scratch.chunk.reserve(queries);
      scratch.total.reserve(queries);
      scratch.top_tokens.Reserve(limits.context);
    }
  }
}

void PagedAttention::Run(const AttentionCall& call) {
  assert(call.group() <= kMaxGroup && call.kv.block_tokens >= kMinBlockTokens);
  const StepBatch& batch = call.batch;
  const int kv_heads = call.kv.kv_heads;
  ClearPlan();
  if (Summarises(call)) summaries_.Renew(batch, call.kv, call.attention.sinks);
  for (int s = 0; s < batch.sequences(); ++s) {
    const int begin = batch.query_begin[s];
    const int end = batch.query_begin[s + 1];
    const int32_t* table = batch.BlockTable(call.kv.group, s);
    const auto is_tiled = [&](int row) {
      return end - begin > 1 &&
             (batch.selections.empty() || batch.selections[row].kind == SelectionKind::kAll);
    };
    for (int row = begin; row < end;) {
      if (is_tiled(row)) {
        int rows = 1;
        while (rows < kQueryTile && row + rows < end && is_tiled(row + rows)) ++rows;
        for (int g = 0; g < kv_heads; ++g) tiles_.push_back({row, rows, g, table});
        row += rows;
        continue;
      }
      for (int g = 0; g < kv_heads; ++g) {
        const Head head = HeadOf(call, s, row, g);
        if (PlanHead(call, head)) continue;
        RunPlanned(call);
        ClearPlan();
        PlanHead(call, head);
      }
      ++row;
    }
  }
  RunPlanned(call);
}

// Summaries are those of the step.
PagedAttention::Head PagedAttention::HeadOf(const AttentionCall& call, int sequence, int row,
                                            int kv_head) const {
  const StepBatch& batch = call.batch;
  const Selection selection = batch.selections.empty() ? Selection{} : batch.selections[row];
  const int context = batch.positions[row] + 1;
  Head head = {.row = row,
               .kv_head = kv_head,
               .block_table = batch.BlockTable(call.kv.group, sequence),
               .kind = selection.kind,
               .begin = call.FirstSeen(batch.positions[row]),
               .context = context,
               .budget = BudgetTokens(selection, call.attention, kv_head, context),
               .tail = TailWeight(selection, call.attention, kv_head, context)};
  if (Summarises(call) && head.tail > 0 && head.selects()) {
    head.estimate = summaries_.Estimate(sequence, batch.positions[row], kv_head);
  }
  return head;
}

void PagedAttention::ClearPlan() {
  planned_tokens_ = 0;
  tiles_.clear();
  heads_.clear();
  selecting_.clear();
  tail_items_.clear();
  tail_codes_.clear();
  attend_items_.clear();
  label_queries_.clear();
  score_pieces_.clear();
  positions_.clear();
  partials_.clear();
}

// Rows of scores that choosing and estimating need: one for each query head, and with an estimate
// one more to choose by.
int64_t PagedAttention::ScoreRows(const AttentionCall& call, const Head& head) {
  return call.group() + (head.estimate != nullptr ? 1 : 0);
}

// False if there is no room left for it.
bool PagedAttention::PlanHead(const AttentionCall& call, Head head) {
  if (!heads_.empty() && planned_tokens_ + head.context > kPlannedTokens) return false;
  planned_tokens_ += head.context;
  const int group = call.group();
  const auto index = static_cast<int32_t>(heads_.size());
  head.partials = std::ssize(partials_);
  // What is not chosen is one more.
  partials_.resize(partials_.size() + (head.chunks() + (head.estimate != nullptr ? 1 : 0)) * group);
  if (head.selects()) {
    selecting_.push_back(index);
    head.positions = std::ssize(positions_);
    positions_.resize(positions_.size() + head.budget);
    head.queries = std::ssize(label_queries_);
    label_queries_.resize(label_queries_.size() + group);
    head.pieces = std::ssize(score_pieces_);
    const int64_t pieces = int64_t{Pieces(head.context, kPieceTokens)} * group;
    score_pieces_.resize(score_pieces_.size() + pieces);
    if (head.estimate != nullptr) {
      head.tail_codes = std::ssize(tail_codes_);
      tail_codes_.resize(tail_codes_.size() + pieces * (2 + call.kv.label_width));
    }
  } else {
    for (int chunk = 0; chunk < head.chunks(); ++chunk) attend_items_.push_back({index, chunk});
  }
  heads_.push_back(head);
  return true;
}

// Computes the tiles and the heads that are planned.
void PagedAttention::RunPlanned(const AttentionCall& call) {
  PlacePartials(call.kv.head_dim);
  const bool whole = std::ssize(selecting_) >= int64_t{kWholeHeads} * pool_.threads();
  if (!whole) ShareOut(call);
  const int64_t tiles = std::ssize(tiles_);
  const int64_t heads = whole ? std::ssize(selecting_) : 0;
  const int64_t tails = std::ssize(tail_items_);
  pool_.ParallelFor(tiles + heads + tails + std::ssize(attend_items_), [&](int64_t i, int worker) {
    Scratch* scratch = &scratch_[worker];
    if (i < tiles) {
      AttendTile(call, tiles_[i], scratch);
    } else if (i < tiles + heads) {
      AttendSelecting(call, heads_[selecting_[i - tiles]], scratch);
    } else if (i < tiles + heads + tails) {
      const Item& item = tail_items_[i - tiles - heads];
      const Head& head = heads_[item.head];
      SumTail(call, head, item.index, scores_.data() + head.scores);
    } else {
      const Item& item = attend_items_[i - tiles - heads - tails];
      AttendPart(call, heads_[item.head], item.index, scratch);
    }
  });
  for (const Head& head : heads_) {
    if (!whole || !head.selects()) Merge(call, head);
  }
}

// Gives the planned partials room for their outputs.
void PagedAttention::PlacePartials(int head_dim) {
  partial_outs_.resize(partials_.size() * head_dim);
  for (size_t i = 0; i < partials_.size(); ++i) {
    partials_[i].out = partial_outs_.data() + i * head_dim;
  }
}

// Lets the workers score parts of contexts, then choose, and leaves parts to attend to.
void PagedAttention::ShareOut(const AttentionCall& call) {
  score_items_.clear();
  int64_t floats = 0;
  for (const int32_t index : selecting_) {
    Head& head = heads_[index];
    head.scores = floats;
    for (int chunk = 0; chunk < head.chunks(); ++chunk) attend_items_.push_back({index, chunk});
    if (head.kind == SelectionKind::kWindow) continue;
    ProjectQueries(call, head);
    floats += ScoreRows(call, head) * PaddedScores(head.context);
    for (int piece = 0; piece < Pieces(head.context, kPieceTokens); ++piece) {
      score_items_.push_back({index, piece});
      if (head.estimate != nullptr) tail_items_.push_back({index, piece});
    }
  }
  if (std::ssize(scores_) < floats) scores_.resize(floats);
  pool_.ParallelFor(std::ssize(score_items_), [&](int64_t i, int) {
    const Head& head = heads_[score_items_[i].head];
    ScorePart(call, head, score_items_[i].index, scores_.data() + head.scores);
  });
  pool_.ParallelFor(std::ssize(selecting_), [&](int64_t i, int worker) {
    const Head& head = heads_[selecting_[i]];
    ChoosePositions(call, head, scores_.data() + head.scores, &scratch_[worker].top_tokens);
  });
}

// Chooses a head's positions by one worker.
void PagedAttention::SelectAlone(const AttentionCall& call, const Head& head, Scratch* scratch) {
  if (head.kind != SelectionKind::kWindow) {
    const int64_t floats = ScoreRows(call, head) * PaddedScores(head.context);
    if (std::ssize(scratch->selection) < floats) scratch->selection.resize(floats);
    ProjectQueries(call, head);
    for (int piece = 0; piece < Pieces(head.context, kPieceTokens); ++piece) {
      ScorePart(call, head, piece, scratch->selection.data());
    }
  }
  ChoosePositions(call, head, scratch->selection.data(), &scratch->top_tokens);
}

// Asks for the chosen rows, which come to the second-level cache while sums are computed. The first
// level waits for few lines at a time: asked for there, rows hold up the sums for as long as they
// take.
void PagedAttention::AskForRows(const AttentionCall& call, const Head& head) const {
  const int row_bytes = static_cast<int>(call.kv.token_elements() * sizeof(uint16_t));
  const int count = std::min(head.budget, kAheadBytes / row_bytes);
  for (int begin = 0; begin < count; begin += kChunkTokens) {
    const uint16_t* keys[kChunkTokens];
    const int rows = std::min(kChunkTokens, count - begin);
    PointToPositions(call, head.kv_head, head.block_table,
                     positions_.data() + head.positions + begin, rows, keys);
    for (int j = 0; j < rows; ++j) {
      const auto* row = reinterpret_cast<const std::byte*>(keys[j]);
      for (int byte = 0; byte < row_bytes; byte += kLineBytes) {
        __builtin_prefetch(row + byte, 0, 2);
      }
    }
  }
}

// All rounds of a head, by one worker.
void PagedAttention::AttendSelecting(const AttentionCall& call, const Head& head,
                                     Scratch* scratch) {
  SelectAlone(call, head, scratch);
  if (head.estimate != nullptr) {
    AskForRows(call, head);
    SumTails(call, head, scratch->selection.data());
  }
  for (int chunk = 0; chunk < head.chunks(); ++chunk) AttendPart(call, head, chunk, scratch);
  Merge(call, head);
}

void PagedAttention::ProjectQueries(const AttentionCall& call, const Head& head) {
  if (head.kind != SelectionKind::kLabels) return;
  const int group = call.group();
  const int head_dim = call.kv.head_dim;
  const int width = call.kv.label_width;
  const float* basis = call.attention.basis.query + int64_t{head.kv_head} * head_dim * width;
  for (int h = 0; h < group; ++h) {
    ProjectQuery(call.query(head.row, head.kv_head * group + h), basis, head_dim, width,
                 Log2FormOf(call).scale, &label_queries_[head.queries + h]);
  }
}

// Leaves weights relative to the piece's reference, and the piece's softmax state, of every query
// head.
void PagedAttention::ScorePart(const AttentionCall& call, const Head& head, int piece,
                               float* all_scores) {
  const int group = call.group();
  const int first = piece * kPieceTokens;
  const int count = std::min(kPieceTokens, head.context - first);
  float* scores[kMaxGroup] = {};
  for (int h = 0; h < group; ++h) {
    scores[h] = all_scores + h * PaddedScores(head.context) + first;
  }
  ScorePiece* state = score_pieces_.data() + head.pieces + int64_t{piece} * group;
  if (head.kind == SelectionKind::kScores) {
    ScoreExactly(call, head.row, head.kv_head, head.block_table, first, count, scores);
  } else {
    const ListedLabels listed(call.kv, head.block_table, head.kv_head, head.context, first, count);
    const LabelQuery* queries = label_queries_.data() + head.queries;
    if (std::all_of(queries, queries + group, [](const LabelQuery& q) { return q.is_narrow; })) {
      float sums[kMaxGroup];
      WeighLabels(listed.labels, queries, group, scores, sums);
      for (int h = 0; h < group; ++h) state[h] = {-queries[h].bias, sums[h]};
      return;
    }
    ScoreLabels(listed.labels, queries, group, scores);
  }
  for (int h = 0; h < group; ++h) {
    state[h].sum = SoftmaxWeights2(count, scores[h], &state[h].reference);
  }
}

// Fills in the head's positions. `scores` holds what ScorePart left.
void PagedAttention::ChoosePositions(const AttentionCall& call, const Head& head, float* scores,
                                     TopTokensScratch* scratch) {
  const int group = call.group();
  const int sinks = call.attention.sinks;
  const int window =
      head.kind == SelectionKind::kWindow ? head.budget - sinks : call.attention.window;
  int32_t* positions = positions_.data() + head.positions;
  std::iota(positions, positions + sinks, 0);
  std::iota(positions + head.budget - window, positions + head.budget, head.context - window);
  if (head.kind == SelectionKind::kWindow) return;

  // Pieces may have been weighed relative to scores of their own: bring them to one scale, divide
  // by the softmax's sum, add the heads up.
  const int pieces = Pieces(head.context, kPieceTokens);
  const ScorePiece* state = score_pieces_.data() + head.pieces;
  float max[kMaxGroup];
  float sum[kMaxGroup] = {};
  for (int h = 0; h < group; ++h) {
    max[h] = -INFINITY;
    for (int p = 0; p < pieces; ++p) max[h] = std::max(max[h], state[p * group + h].reference);
    for (int p = 0; p < pieces; ++p) {
      sum[h] += state[p * group + h].sum * std::exp2(state[p * group + h].reference - max[h]);
    }
  }
  const int64_t stride = PaddedScores(head.context);
  float* ranks = scores + (ScoreRows(call, head) - 1) * stride;  // tails need all heads' weights
  if (head.estimate == nullptr) ranks = scores;
  for (int p = 0; p < pieces; ++p) {
    const int first = p * kPieceTokens;
    const float* of_head[kMaxGroup];
    float factors[kMaxGroup];
    for (int h = 0; h < group; ++h) {
      of_head[h] = scores + h * stride + first;
      factors[h] = std::exp2(state[p * group + h].reference - max[h]) / sum[h];
    }
    WeightedSum(of_head, factors, group, std::min(kPieceTokens, head.context - first),
                ranks + first);
  }
  TopTokens(ranks + sinks, head.context - sinks - window, head.budget - sinks - window, sinks,
            positions + sinks, scratch);
}

// Leaves what SumCodes says of the piece's tokens, of every query head; the chosen ones are left
// out.
void PagedAttention::SumTail(const AttentionCall& call, const Head& head, int piece,
                             float* scores) {
  const int group = call.group();
  const int first = piece * kPieceTokens;
  const int count = std::min(kPieceTokens, head.context - first);
  const ListedLabels listed(call.kv, head.block_table, head.kv_head, first + count, first, count);
  const std::span chosen(positions_.data() + head.positions, static_cast<size_t>(head.budget));
  const auto begin = std::ranges::lower_bound(chosen, first);
  const auto end = std::ranges::lower_bound(begin, chosen.end(), first + count);
  float* weights[kMaxGroup] = {};
  float* sums[kMaxGroup] = {};
  for (int h = 0; h < group; ++h) {
    weights[h] = scores + h * PaddedScores(head.context) + first;
    sums[h] = tail_codes_.data() + head.tail_codes +
              (int64_t{piece} * group + h) * (2 + call.kv.label_width);
  }
  SumCodes(listed.labels, {{begin, end}, first}, weights, group, sums);
}

// SumTail of all pieces, by one worker.
void PagedAttention::SumTails(const AttentionCall& call, const Head& head, float* scores) {
  for (int piece = 0; piece < Pieces(head.context, kPieceTokens); ++piece) {
    SumTail(call, head, piece, scores);
  }
}

// What query head `h` of the head's group has not chosen, of which SumTail left the sums; null if
// it weighs nothing that the sum of all weights tells.
const Partial* PagedAttention::Tail(const AttentionCall& call, const Head& head, int h) {
  const int group = call.group();
  const int width = call.kv.label_width;
  const int pieces = Pieces(head.context, kPieceTokens);
  const ScorePiece* state = score_pieces_.data() + head.pieces;
  float max = -INFINITY;
  for (int p = 0; p < pieces; ++p) max = std::max(max, state[p * group + h].reference);
  float all = 0;      // weights
  float chosen = 0;   // of those
  float sampled = 0;  // of the others
  float codes[kMaxLabelWidth] = {};
  for (int p = 0; p < pieces; ++p) {
    const float factor = std::exp2(state[p * group + h].reference - max);
    const float* of_piece =
        tail_codes_.data() + head.tail_codes + (int64_t{p} * group + h) * (2 + width);
    all += factor * state[p * group + h].sum;
    chosen += factor * of_piece[0];
    sampled += factor * of_piece[1];
    for (int i = 0; i < width; ++i) codes[i] += factor * of_piece[2 + i];
  }
  const float sum = all - chosen;
  if (!(sum > kLeastTail * all)) return nullptr;
  const bool has_sample = sampled > 0;
  for (int i = 0; i < width && has_sample; ++i) codes[i] /= sampled;
  Partial& tail = partials_[head.partials + int64_t{head.chunks()} * group + h];
  EstimateTail(call.kv.summary_shape(), head.estimate,
               call.query(head.row, head.kv_head * group + h), label_queries_[head.queries + h],
               FormOf(call).scale, {max + std::log2(sum), has_sample ? codes : nullptr}, &tail);
  tail.max += std::log(head.tail);
  return &tail;
}

void PagedAttention::AttendTile(const AttentionCall& call, const Tile& tile, Scratch* scratch) {
  const int head_dim = call.kv.head_dim;
  const int group = call.group();
  const int queries = tile.rows * group;
  scratch->scores.resize(int64_t{queries} * kChunkTokens);
  scratch->outs.resize(int64_t{2} * queries * head_dim);
  scratch->chunk.resize(queries);
  scratch->total.resize(queries);
  const float* query[kQueryTile * kMaxGroup];
  Visible visible[kQueryTile * kMaxGroup];
  for (int i = 0; i < queries; ++i) {
    query[i] = call.query(tile.first_row + i / group, tile.kv_head * group + i % group);
    float* outs = scratch->outs.data() + int64_t{2} * i * head_dim;
    scratch->chunk[i].out = outs;
    scratch->total[i] = {-INFINITY, 0, outs + head_dim};
    std::fill(outs + head_dim, outs + 2 * head_dim, 0.0f);
  }
  const ScoreForm form = FormOf(call);
  const int32_t* positions = call.batch.positions.data() + tile.first_row;
  const int context = positions[tile.rows - 1] + 1;
  const int oldest = call.FirstSeen(positions[0]);
  for (int chunk = oldest / kChunkTokens * kChunkTokens; chunk < context; chunk += kChunkTokens) {
    // The first queries may lie before the chunk, and the windows of the last ones behind it.
    int first = 0;
    int last = 0;
    for (int i = 0; i < queries; ++i) {
      const int begin = call.FirstSeen(positions[i / group]) - chunk;
      const int end = positions[i / group] + 1 - chunk;
      if (end <= 0) first = i + 1;
      if (begin < kChunkTokens) last = i + 1;
      visible[i] = {std::max(begin, 0), std::min(end, kChunkTokens)};
    }
    const uint16_t* keys[kChunkTokens];
    PointToVisible(call, tile.kv_head, tile.block_table, chunk,
                   {visible[first].begin, visible[last - 1].end}, keys);
    AttendChunk({keys, head_dim}, query + first, visible + first, last - first, form,
                scratch->scores.data(), scratch->chunk.data() + first);
    for (int i = first; i < last; ++i) {
      MergePartial(scratch->chunk[i], head_dim, &scratch->total[i]);
    }
  }
  for (int i = 0; i < queries; ++i) {
    WriteOutput(call, tile.first_row + i / group, tile.kv_head * group + i % group,
                scratch->total[i]);
  }
}

void PagedAttention::AttendPart(const AttentionCall& call, const Head& head, int chunk,
                                Scratch* scratch) {
  const int first = (head.first_chunk() + chunk) * kChunkTokens;
  const Visible visible = {std::max(head.begin - first, 0),
                           std::min(head.end() - first, kChunkTokens)};
  const uint16_t* keys[kChunkTokens];
  if (head.selects()) {
    PointToPositions(call, head.kv_head, head.block_table,
                     positions_.data() + head.positions + first, visible.end, keys);
  } else {
    PointToVisible(call, head.kv_head, head.block_table, first, visible, keys);
  }
  const int group = call.group();
  const float* queries[kMaxGroup];
  Visible of_query[kMaxGroup];
  for (int h = 0; h < group; ++h) {
    queries[h] = call.query(head.row, head.kv_head * group + h);
    of_query[h] = visible;
  }
  scratch->scores.resize(std::max<size_t>(scratch->scores.size(), int64_t{group} * kChunkTokens));
  AttendChunk({keys, call.kv.head_dim}, queries, of_query, group, FormOf(call),
              scratch->scores.data(), partials_.data() + head.partials + int64_t{chunk} * group);
}

// Merges the head's later chunks into its first one and writes the result.
void PagedAttention::Merge(const AttentionCall& call, const Head& head) {
  const int group = call.group();
  for (int h = 0; h < group; ++h) {
    Partial* total = &partials_[head.partials + h];
    for (int c = 1; c < head.chunks(); ++c) {
      MergePartial(partials_[head.partials + int64_t{c} * group + h], call.kv.head_dim, total);
    }
    const Partial* tail = head.estimate != nullptr ? Tail(call, head, h) : nullptr;
    if (tail != nullptr) MergePartial(*tail, call.kv.head_dim, total);
    WriteOutput(call, head.row, head.kv_head * group + h, *total);
  }
}

void PagedAttention::MeasureRecall(const AttentionCall& call, std::span<const RecallProbe> probes,
                                   ProbedMass* probed) {
  const StepBatch& batch = call.batch;
  const auto head_of = [&](const RecallProbe& probe) {
    const auto after = std::ranges::upper_bound(batch.query_begin, probe.row);
    const auto sequence = static_cast<int>(after - batch.query_begin.begin()) - 1;
    return HeadOf(call, sequence, probe.row, probe.kv_head);
  };
  for (size_t begin = 0; begin < probes.size();) {
    ClearPlan();
    size_t end = begin;
    while (end < probes.size() && PlanHead(call, head_of(probes[end]))) ++end;
    PlacePartials(call.kv.head_dim);
    pool_.ParallelFor(std::ssize(heads_), [&](int64_t i, int worker) {
      probed[begin + i] = Probe(call, heads_[i], &scratch_[worker]);
    });
    begin = end;
  }
}

ProbedMass PagedAttention::Probe(const AttentionCall& call, const Head& head, Scratch* scratch) {
  if (!head.selects()) return {};
  SelectAlone(call, head, scratch);
  const int group = call.group();
  float tails[kMaxGroup];  // logs of base 2
  std::fill_n(tails, group, -INFINITY);
  if (head.estimate != nullptr) {
    SumTails(call, head, scratch->selection.data());
    for (int h = 0; h < group; ++h) {
      const Partial* tail = Tail(call, head, h);
      if (tail != nullptr) tails[h] = std::numbers::log2e_v<float> * tail->max;
    }
  }
  const int64_t stride = PaddedScores(head.context);
  if (std::ssize(scratch->selection) < group * stride) scratch->selection.resize(group * stride);
  float* weights[kMaxGroup] = {};
  for (int h = 0; h < group; ++h) weights[h] = scratch->selection.data() + h * stride;
  ScoreExactly(call, head.row, head.kv_head, head.block_table, 0, head.context, weights);
  double recall = 0;
  double estimated = 0;
  for (int h = 0; h < group; ++h) {
    float max;
    const float sum = SoftmaxWeights2(head.context, weights[h], &max);
    double selected = 0;
    for (int j = 0; j < head.budget; ++j) {
      selected += weights[h][positions_[head.positions + j]];
    }
    recall += selected / sum / group;
    if (tails[h] == -INFINITY) continue;
    estimated += 1 / (1 + selected * std::exp2(static_cast<double>(max - tails[h]))) / group;
  }
  return {static_cast<float>(std::min(recall, 1.0)), static_cast<float>(estimated)};
}

}  // namespace winnow::cpu

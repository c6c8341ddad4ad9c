#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "engine/cache/block_memory.h"
#include "engine/cache/block_pool.h"
#include "engine/engine_core.h"
#include "engine/model/forward_pass.h"
#include "engine/observer.h"
#include "engine/request/engine_options.h"
#include "engine/request/request.h"
#include "engine/sequence/drafter.h"
#include "engine/text/tokenizer.h"

namespace winnow {

/// A vocabulary of single letters: token t stands for letter t of "abc...", the last token ends a
/// generation and has no text.
class LetterTokenizer : public Tokenizer {
 public:
  explicit LetterTokenizer(int32_t vocab) : vocab_(vocab) {}

  std::vector<int32_t> EncodeSegments(std::span<const TextSegment> segments, bool add_bos,
                                      const std::atomic<bool>& cancelled) const override;
  std::string TokenBytes(int32_t token, bool render_special) const override;
  int32_t vocab_size() const override { return vocab_; }
  int32_t bos_token() const override { return -1; }
  bool IsEndOfGeneration(int32_t token) const override { return token == vocab_ - 1; }
  bool StripsLeadingSpace() const override { return false; }

 private:
  int32_t vocab_;
};

/// A model whose logits are a hash of the history as it lies in the KV blocks: what a row's tokens
/// were is read back through the block table of each group of layers, as far as its window reaches.
/// A block that is wrongly shared, freed, overwritten or not written changes the output, and is
/// counted.
class HistoryModel : public ForwardPass, public BlockMemory {
 public:
  /// With so many blocks for each of the groups, whose windows are AttentionShape::group_windows,
  /// and so many slots of a host tier.
  HistoryModel(int blocks, int block_tokens, int vocab, std::vector<int> windows = {0},
               int host_slots = 0);

  absl::Status Forward(const StepBatch& batch, std::span<float> logits,
                       std::span<ProbedMass> probed) override;
  absl::Status ForwardAndChoose(const StepBatch& batch, std::span<const TokenChoice> choices,
                                std::span<int32_t> tokens, std::span<TokenDescription> descriptions,
                                std::span<ProbedMass> probed) override;
  absl::Status Copy(const BlockCopy& copy) override;
  void Spill(std::span<const BlockInSlot> copies) override;
  void Fetch(std::span<const BlockInSlot> copies) override;
  int vocab() const override { return vocab_; }
  AttentionShape attention_shape() const override {
    return {.layers = 2, .kv_heads = 3, .group_windows = windows_};
  }
  /// 100 bytes a token.
  KvTraffic Traffic(const Selection& selection, int context) const override;
  KvTraffic PromptTraffic(int begin, int end) const override;

  /// What the model answers after `history`.
  std::vector<float> LogitsAfter(std::span<const int32_t> history) const;

  /// From now on, reads of free blocks and writes to shared ones are counted.
  void Watch(const BlockPool& pool) { pool_ = &pool; }
  /// Overwrites what free blocks hold that are not kept.
  void PoisonFreeBlocks();

  /// Slots read that did not hold their position's token, accesses to blocks that may not be.
  int corruptions() const { return corruptions_; }
  int64_t tokens_computed() const { return tokens_computed_; }
  int max_rows() const { return max_rows_; }
  int tokens_described() const { return tokens_described_; }

  /// Called at the start of Forward: a returned error is the device's.
  std::function<absl::Status(const StepBatch&)> before_forward;
  /// What every probe measures.
  float recall = 1;
  /// Rows of this token get NaN as logits.
  std::optional<int32_t> nan_after_token;

 private:
  struct Slot {
    int32_t token = -1;
    int32_t position = -1;
  };
  Slot& SlotOf(const int32_t* table, int32_t position);
  void CopyBlock(const Slot* from, Slot* to) const { std::copy_n(from, block_tokens_, to); }
  void Store(const StepBatch& batch, int sequence, int32_t row);
  uint64_t ReadHistory(const StepBatch& batch, int sequence, int32_t row);

  int block_tokens_;
  int vocab_;
  std::vector<int> windows_;
  std::vector<Slot> slots_;  ///< [blocks, block_tokens]
  std::vector<Slot> host_;   ///< [host slots, block_tokens]
  const BlockPool* pool_ = nullptr;
  int corruptions_ = 0;
  int64_t tokens_computed_ = 0;
  int max_rows_ = 0;
  int tokens_described_ = 0;
};

/// Guesses right, wrong, or somewhat, at random.
class RandomDrafter : public Drafter {
 public:
  /// Up to `most` tokens at a time. REQUIRES: `model` outlives the drafter.
  RandomDrafter(const HistoryModel& model, unsigned seed, int most)
      : model_(model), random_(seed), most_(most) {}

  std::vector<int32_t> Draft(const Sequence& sequence) override;

 private:
  const HistoryModel& model_;
  std::mt19937 random_;
  int most_;
};

/// Keeps what it gets. Has room unless told otherwise.
class RecordingSink : public RequestSink {
 public:
  struct Continuation {
    std::string text;
    std::vector<OutputToken> tokens;
    std::optional<FinishReason> finish_reason;
    std::string matched_stop;

    std::vector<int32_t> token_ids() const;
  };
  explicit RecordingSink(int n = 1) : continuations(static_cast<size_t>(n)) {}

  bool HasRoom() const override { return has_room; }
  void OnOutput(Output output) override;
  void OnFinished(RequestSummary finished) override;

  bool has_room = true;
  int outputs = 0;
  int tokens_beside_others = 0;  ///< that came with another one before them in the same output
  std::vector<Continuation> continuations;
  std::optional<RequestSummary> summary;
};

/// Keeps sums and the latest values.
class RecordingObserver : public EngineObserver {
 public:
  void OnStep(const StepStats& stats) override { steps.push_back(stats); }
  void OnGauges(const EngineGauges& latest) override { gauges = latest; }
  void OnFinished(const RequestSummary& summary) override { finished.push_back(summary); }
  void OnPreempted() override { ++preemptions; }
  void OnRejected(const absl::Status& status) override { rejected.push_back(status); }

  std::vector<StepStats> steps;
  EngineGauges gauges;
  std::vector<RequestSummary> finished;
  int preemptions = 0;
  std::vector<absl::Status> rejected;
};

/// A core with its fakes; the clock moves by a second with every step. Every step checks the
/// invariants and poisons the free blocks; the destructor checks that no block has leaked.
/// REQUIRES: all requests have ended by then.
struct CoreBench {
  static constexpr int kVocab = 16;

  explicit CoreBench(const EngineOptions& options, const std::vector<int>& windows = {0})
      : options(options),
        model(options.kv_blocks, options.block_tokens, kVocab, windows, options.host_slots),
        core(options, model, model, tokenizer, observer, [this] { return now; }) {
    model.Watch(core.store().pool());
  }
  ~CoreBench();

  void Submit(Request request, RecordingSink& sink);
  bool Step();
  /// Steps until there is nothing to do; returns how many did something.
  int RunToEnd();

  EngineOptions options;
  absl::Time now = absl::UnixEpoch();
  LetterTokenizer tokenizer{kVocab};
  HistoryModel model;
  RecordingObserver observer;
  EngineCore core;
};

/// What a request's continuation must be, made directly from the model's answers: no batch, no
/// blocks, no scheduler, and stop strings searched in the whole text.
RecordingSink::Continuation ReferenceContinuation(const Request& request, int index,
                                                  const EngineOptions& options,
                                                  const HistoryModel& model,
                                                  const Tokenizer& tokenizer);

}  // namespace winnow

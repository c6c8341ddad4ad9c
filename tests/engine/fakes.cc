#include "tests/engine/fakes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/request/request_check.h"
#include "kernels/cpu/token_chooser.h"
#include "kernels/logits.h"

namespace winnow {
namespace {

uint64_t HashStep(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0xff51afd7ed558ccd;
  return hash ^ (hash >> 32);
}

void FillLogits(uint64_t history, std::span<float> logits) {
  for (size_t v = 0; v < logits.size(); ++v) {
    const uint64_t hash = HashStep(HashStep(history, v + 1), 77);
    logits[v] = static_cast<float>(hash >> 40) * 0x1p-24f * 8 - 4;  // in [-4, 4)
  }
}

// The first position that a row sees.
int FirstSeen(int window, int position) {
  return window > 0 ? std::max(0, position + 1 - window) : 0;
}

}  // namespace

std::vector<int32_t> LetterTokenizer::EncodeSegments(std::span<const TextSegment> segments, bool,
                                                     const std::atomic<bool>&) const {
  std::vector<int32_t> tokens;
  for (const TextSegment& segment : segments) {
    for (const char c : segment.text) tokens.push_back(c - 'a');
  }
  return tokens;
}

std::string LetterTokenizer::TokenBytes(int32_t token, bool render_special) const {
  if (IsEndOfGeneration(token)) return render_special ? "<end>" : "";
  return std::string(1, static_cast<char>('a' + token));
}

HistoryModel::HistoryModel(int blocks, int block_tokens, int vocab, std::vector<int> windows,
                           int host_slots)
    : block_tokens_(block_tokens),
      vocab_(vocab),
      windows_(std::move(windows)),
      slots_(windows_.size() * static_cast<size_t>(blocks * block_tokens)),
      host_(static_cast<size_t>(host_slots * block_tokens)) {}

HistoryModel::Slot& HistoryModel::SlotOf(const int32_t* table, int32_t position) {
  const int32_t block = table[position / block_tokens_];
  return slots_.at(static_cast<size_t>(block * block_tokens_ + position % block_tokens_));
}

KvTraffic HistoryModel::Traffic(const Selection& selection, int context) const {
  const int attended = BudgetTokens(selection, LayerAttention{}, 0, context);
  KvTraffic traffic;
  (attended < context ? traffic.row_bytes : traffic.dense_bytes) = 100 * attended;
  traffic.equivalent_bytes = 100 * context;
  traffic.attended_tokens = attended;
  traffic.context_tokens = context;
  traffic.heads = 1;
  return traffic;
}

KvTraffic HistoryModel::PromptTraffic(int /*begin*/, int end) const {
  return {.dense_bytes = 100 * end, .equivalent_bytes = 100 * end};
}

absl::Status HistoryModel::ForwardAndChoose(const StepBatch& batch,
                                            std::span<const TokenChoice> choices,
                                            std::span<int32_t> tokens,
                                            std::span<TokenDescription> descriptions,
                                            std::span<ProbedMass> probed) {
  const auto vocab = static_cast<size_t>(vocab_);
  std::vector<float> all(batch.logit_rows.size() * vocab);
  const absl::Status status = Forward(batch, all, probed);
  cpu::TokenChooser chooser;
  for (size_t i = 0; i < choices.size(); ++i) {
    const auto row = static_cast<size_t>(choices[i].row);
    const auto logits = std::span(all).subspan(row * vocab, vocab);
    tokens[i] = chooser.Choose(logits, choices[i]);
    if (choices[i].alternatives < 0 || tokens[i] < 0) continue;
    descriptions[i] = DescribeToken(logits, tokens[i], choices[i].alternatives);
    ++tokens_described_;
  }
  return status;
}

absl::Status HistoryModel::Forward(const StepBatch& batch, std::span<float> logits,
                                   std::span<ProbedMass> probed) {
  std::ranges::fill(probed, ProbedMass{.recall = recall});
  if (before_forward) {
    if (absl::Status status = before_forward(batch); !status.ok()) return status;
  }
  EXPECT_EQ(logits.size(), batch.logit_rows.size() * static_cast<size_t>(vocab_));
  tokens_computed_ += batch.rows();
  max_rows_ = std::max(max_rows_, batch.rows());
  const auto for_rows = [&](const auto& visit) {
    for (int s = 0; s < batch.sequences(); ++s) {
      for (int32_t row = batch.query_begin[static_cast<size_t>(s)];
           row < batch.query_begin[static_cast<size_t>(s) + 1]; ++row) {
        visit(s, row);
      }
    }
  };
  // All sequences write before any reads, as a layer does it.
  for_rows([&](int s, int32_t row) { Store(batch, s, row); });
  auto wanted = batch.logit_rows.begin();
  for_rows([&](int s, int32_t row) {
    const uint64_t history = ReadHistory(batch, s, row);
    if (wanted == batch.logit_rows.end() || *wanted != row) return;
    ++wanted;
    FillLogits(history, logits.first(static_cast<size_t>(vocab_)));
    if (nan_after_token == batch.tokens[static_cast<size_t>(row)]) {
      logits[static_cast<size_t>(vocab_ / 2)] = std::numeric_limits<float>::quiet_NaN();
    }
    logits = logits.subspan(static_cast<size_t>(vocab_));
  });
  EXPECT_TRUE(wanted == batch.logit_rows.end()) << "logit rows are not ascending rows";
  return absl::OkStatus();
}

void HistoryModel::Store(const StepBatch& batch, int sequence, int32_t row) {
  const int32_t position = batch.positions[static_cast<size_t>(row)];
  for (int g = 0; g < static_cast<int>(windows_.size()); ++g) {
    const int32_t* table = batch.BlockTable(g, sequence);
    SlotOf(table, position) = {batch.tokens[static_cast<size_t>(row)], position};
    if (pool_ != nullptr && pool_->owners(table[position / block_tokens_]) != 1) ++corruptions_;
  }
}

// A hash of what the row sees in each group.
uint64_t HistoryModel::ReadHistory(const StepBatch& batch, int sequence, int32_t row) {
  const int32_t last = batch.positions[static_cast<size_t>(row)];
  uint64_t hash = 1;
  for (size_t g = 0; g < windows_.size(); ++g) {
    const int32_t* table = batch.BlockTable(static_cast<int>(g), sequence);
    for (int32_t position = FirstSeen(windows_[g], last); position <= last; ++position) {
      const Slot& slot = SlotOf(table, position);
      const int32_t block = table[position / block_tokens_];
      if (slot.position != position || (pool_ != nullptr && pool_->owners(block) == 0)) {
        ++corruptions_;
      }
      hash = HashStep(hash, static_cast<uint64_t>(slot.token) + 1);
    }
  }
  return hash;
}

absl::Status HistoryModel::Copy(const BlockCopy& copy) {
  const auto [from, to, tokens] = copy;
  if (pool_ != nullptr && (pool_->owners(from) == 0 || pool_->owners(to) != 1)) ++corruptions_;
  for (int i = 0; i < tokens; ++i) {
    slots_.at(static_cast<size_t>(to * block_tokens_ + i)) =
        slots_.at(static_cast<size_t>(from * block_tokens_ + i));
  }
  return absl::OkStatus();
}

void HistoryModel::Spill(std::span<const BlockInSlot> copies) {
  for (const auto& [block, slot] : copies) {
    CopyBlock(&slots_.at(static_cast<size_t>(block * block_tokens_)),
              &host_.at(static_cast<size_t>(slot * block_tokens_)));
  }
}

void HistoryModel::Fetch(std::span<const BlockInSlot> copies) {
  for (const auto& [block, slot] : copies) {
    if (pool_ != nullptr && pool_->owners(block) != 1) ++corruptions_;
    CopyBlock(&host_.at(static_cast<size_t>(slot * block_tokens_)),
              &slots_.at(static_cast<size_t>(block * block_tokens_)));
  }
}

std::vector<float> HistoryModel::LogitsAfter(std::span<const int32_t> history) const {
  std::vector<float> logits(static_cast<size_t>(vocab_));
  uint64_t hash = 1;
  for (const int window : windows_) {
    const auto first = static_cast<size_t>(FirstSeen(window, static_cast<int>(history.size()) - 1));
    for (const int32_t token : history.subspan(first)) {
      hash = HashStep(hash, static_cast<uint64_t>(token) + 1);
    }
  }
  FillLogits(hash, logits);
  return logits;
}

void HistoryModel::PoisonFreeBlocks() {
  for (int32_t block = 0; block < pool_->total_blocks(); ++block) {
    if (pool_->owners(block) > 0 || pool_->kept(block)) continue;
    const auto begin = slots_.begin() + static_cast<std::ptrdiff_t>(block) * block_tokens_;
    std::fill(begin, begin + block_tokens_, Slot{});
  }
}

std::vector<int32_t> RandomDrafter::Draft(const Sequence& sequence) {
  std::vector<int32_t> drafts(random_() % static_cast<unsigned>(most_ + 1));
  const unsigned wrong_of_ten = random_() % 10;
  std::vector<int32_t> history(sequence.tokens().begin(), sequence.tokens().end());
  TokenHistory seen = sequence.history();
  cpu::TokenChooser chooser;
  for (size_t i = 0; i < drafts.size(); ++i) {
    drafts[i] = chooser.Choose(
        model_.LogitsAfter(history),
        MakeChoice(0, sequence.request().sampling, seen, sequence.Uniform(static_cast<int>(i))));
    if (random_() % 10 < wrong_of_ten) drafts[i] = static_cast<int32_t>(random_() % 16);
    history.push_back(drafts[i]);
    seen.Append(drafts[i]);
  }
  return drafts;
}

std::vector<int32_t> RecordingSink::Continuation::token_ids() const {
  std::vector<int32_t> ids;
  for (const OutputToken& token : tokens) ids.push_back(token.token);
  return ids;
}

void RecordingSink::OnOutput(Output output) {
  EXPECT_FALSE(summary.has_value()) << "output after OnFinished";
  ++outputs;
  tokens_beside_others += std::max(0, static_cast<int>(output.tokens.size()) - 1);
  Continuation& continuation = continuations.at(static_cast<size_t>(output.index));
  EXPECT_FALSE(continuation.finish_reason.has_value()) << "output after the last one";
  continuation.text += output.text;
  for (OutputToken& token : output.tokens) continuation.tokens.push_back(std::move(token));
  continuation.finish_reason = output.finish_reason;
  continuation.matched_stop = std::move(output.matched_stop);
}

void RecordingSink::OnFinished(RequestSummary finished) {
  EXPECT_FALSE(summary.has_value()) << "finished twice";
  for (const Continuation& continuation : continuations) {
    EXPECT_TRUE(continuation.finish_reason.has_value()) << "finished without a last output";
  }
  summary = std::move(finished);
}

CoreBench::~CoreBench() {
  core.CheckInvariants();
  EXPECT_EQ(core.store().free_blocks(), core.store().total_blocks());
  EXPECT_EQ(model.corruptions(), 0);
  EXPECT_LE(model.max_rows(), options.max_step_tokens);
}

void CoreBench::Submit(Request request, RecordingSink& sink) {
  const absl::Status checked = CheckRequest(request, options, kVocab);
  ASSERT_TRUE(checked.ok()) << checked;
  core.Submit(std::move(request), &sink, now);
}

bool CoreBench::Step() {
  const bool worked = core.Step();
  core.CheckInvariants();
  model.PoisonFreeBlocks();
  now += absl::Seconds(1);
  return worked;
}

int CoreBench::RunToEnd() {
  int steps = 0;
  while (Step()) ++steps;
  return steps;
}

RecordingSink::Continuation ReferenceContinuation(const Request& request, int index,
                                                  const EngineOptions& options,
                                                  const HistoryModel& model,
                                                  const Tokenizer& tokenizer) {
  RecordingSink::Continuation result;
  std::vector<int32_t> history = request.prompt_tokens;
  TokenHistory seen(request.sampling, request.prompt_tokens);
  cpu::TokenChooser chooser;
  while (!result.finish_reason) {
    const std::vector<float> logits = model.LogitsAfter(history);
    int32_t token;
    if (request.sampling.temperature == 0 && seen.edits().empty()) {
      token = static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin());
    } else {
      const auto position = static_cast<int>(result.tokens.size());
      token =
          chooser.Choose(logits, MakeChoice(0, request.sampling, seen,
                                            UniformAt(*request.sampling.seed, index, position)));
    }
    history.push_back(token);
    seen.Append(token);
    result.tokens.push_back({token, std::nullopt, {}});
    if (request.logprobs) {
      TokenDescription description = DescribeToken(logits, token, request.top_logprobs);
      result.tokens.back().logprob = description.logprob;
      result.tokens.back().top_logprobs = std::move(description.alternatives);
    }
    if (std::ranges::count(request.stop_token_ids, token) > 0) {
      result.finish_reason = FinishReason::kStop;
      result.matched_stop = tokenizer.TokenBytes(token, true);
      break;
    }
    if (tokenizer.IsEndOfGeneration(token) && !request.ignore_eos) {
      result.finish_reason = FinishReason::kStop;
      break;
    }
    result.text += tokenizer.TokenBytes(token, request.render_special);
    size_t cut = std::string::npos;
    for (const std::string& stop : request.stop) {
      const size_t found = result.text.find(stop);
      if (found >= cut) continue;
      cut = found;
      result.matched_stop = stop;
    }
    if (cut != std::string::npos) {
      result.text.resize(cut);
      result.finish_reason = FinishReason::kStop;
    } else if (static_cast<int>(result.tokens.size()) == request.max_tokens ||
               static_cast<int>(history.size()) == options.max_context) {
      result.finish_reason = FinishReason::kLength;
    }
  }
  return result;
}

}  // namespace winnow

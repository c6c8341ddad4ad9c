#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <span>
#include <vector>

#include "absl/time/clock.h"
#include "engine/cache/block_memory.h"
#include "engine/model/forward_pass.h"
#include "kernels/cpu/token_chooser.h"
#include "tests/server/fake_tokenizer.h"

namespace winnow {

/// After token t comes t + 1, from 'z' on 'a' again; after '!' the text ends. Every step takes
/// `step_time`.
class AlphabetModel final : public ForwardPass, public BlockMemory {
 public:
  absl::Status Forward(const StepBatch& batch, std::span<float> logits,
                       std::span<ProbedMass> /*probed*/) override {
    if (before_step) before_step();
    absl::SleepFor(step_time.load());
    if (fails) return absl::InternalError("the device is gone");
    std::fill(logits.begin(), logits.end(), 0.0f);
    for (size_t i = 0; i < batch.logit_rows.size(); ++i) {
      const int32_t token = batch.tokens[batch.logit_rows[i]];
      const int32_t next = token == '!'                  ? FakeTokenizer::kEos
                           : token < 'a' || token >= 'z' ? 'a'
                                                         : token + 1;
      logits[i * FakeTokenizer::kVocabSize + next] = 10;
    }
    return absl::OkStatus();
  }
  absl::Status ForwardAndChoose(const StepBatch& batch, std::span<const TokenChoice> choices,
                                std::span<int32_t> tokens, std::span<TokenDescription> descriptions,
                                std::span<ProbedMass> probed) override {
    constexpr size_t kVocab = FakeTokenizer::kVocabSize;
    std::vector<float> all(batch.logit_rows.size() * kVocab);
    const absl::Status status = Forward(batch, all, probed);
    cpu::TokenChooser chooser;
    for (size_t i = 0; i < choices.size(); ++i) {
      const auto row = static_cast<size_t>(choices[i].row);
      const auto logits = std::span(all).subspan(row * kVocab, kVocab);
      tokens[i] = chooser.Choose(logits, choices[i]);
      if (choices[i].alternatives < 0 || tokens[i] < 0) continue;
      descriptions[i] = DescribeToken(logits, tokens[i], choices[i].alternatives);
    }
    return status;
  }
  absl::Status Copy(const BlockCopy&) override { return absl::OkStatus(); }
  int vocab() const override { return FakeTokenizer::kVocabSize; }
  AttentionShape attention_shape() const override { return {1, 1}; }
  KvTraffic Traffic(const Selection&, int) const override { return {}; }
  KvTraffic PromptTraffic(int, int) const override { return {}; }

  std::atomic<absl::Duration> step_time = absl::ZeroDuration();
  std::atomic<bool> fails = false;
  std::function<void()> before_step;  ///< runs in the engine's thread; to be set before it does
};

}  // namespace winnow

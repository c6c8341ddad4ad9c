// A server in virtual time whose steps take what a model of costs says, to ask what admission costs
// and what it is good for.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <optional>
#include <random>
#include <vector>

#include "absl/time/time.h"
#include "engine/cache/block_memory.h"
#include "engine/engine_core.h"
#include "engine/mailbox.h"
#include "engine/model/forward_pass.h"
#include "engine/observer.h"
#include "engine/request/refusal.h"
#include "tests/engine/fakes.h"

namespace winnow {

/// Seconds of a step.
struct StepModel {
  double base = 0;
  double prompt_row = 0;
  double decode_row = 0;
  double prompt_context = 0;  ///< for each token that a row of a prompt attends to
  double decode_context = 0;
  int cold_steps = 0;      ///< the first ones,
  double cold_factor = 1;  ///< which take so many times as long
  double noise = 0;        ///< standard deviation, as a share
};

/// Computes nothing, but takes time. A token ends its sequence with the probability that the
/// request has as min_p.
class TimedModel : public ForwardPass, public BlockMemory {
 public:
  TimedModel(const StepModel& costs, absl::Time* now) : costs_(costs), now_(*now) {}

  absl::Status Forward(const StepBatch& batch, std::span<float> logits,
                       std::span<ProbedMass> probed) override;
  absl::Status ForwardAndChoose(const StepBatch& batch, std::span<const TokenChoice> choices,
                                std::span<int32_t> tokens, std::span<TokenDescription> descriptions,
                                std::span<ProbedMass> probed) override;
  absl::Status Copy(const BlockCopy&) override { return absl::OkStatus(); }
  int vocab() const override { return CoreBench::kVocab; }
  AttentionShape attention_shape() const override { return {1, 1}; }
  KvTraffic Traffic(const Selection&, int) const override { return {}; }
  KvTraffic PromptTraffic(int, int) const override { return {}; }

 private:
  StepModel costs_;
  absl::Time& now_;
  int steps_ = 0;
  std::mt19937_64 random_{1};
};

/// A request that comes at some time.
struct Arrival {
  absl::Time at;
  Request request;
};

/// What became of one.
struct Fate {
  enum class Kind { kPending, kCompleted, kExpired, kRefused };
  Kind kind = Kind::kPending;
  std::optional<ShedReason> reason;  ///< if it was refused, at once or later
  absl::Time end;
};

/// What would have become of a request that was refused for its deadline.
struct Probe {
  size_t arrival = 0;       ///< its index
  double used_seconds = 0;  ///< from its arrival to its end; infinite if that is past its deadline
  double left_seconds = 0;  ///< from its arrival to its deadline
  int harmed = 0;           ///< requests that ended late instead, though they did not otherwise
};

class VirtualServer {
 public:
  VirtualServer(const EngineOptions& options, const StepModel& costs);

  /// Offers the requests, in order of time, until all are over.
  void Run(std::vector<Arrival> arrivals);

  /// Before Run: whether to ask what would become of the refused request, by letting it in in a
  /// copy of this process.
  void SetProbing(std::function<bool()> wanted) { wants_probe_ = std::move(wanted); }

  const std::vector<Arrival>& arrivals() const { return arrivals_; }
  const std::vector<Fate>& fates() const { return fates_; }  ///< [arrivals]
  std::vector<Probe> Probes() const;

 private:
  /// Takes the end of one request.
  class Sink : public RequestSink {
   public:
    Sink(VirtualServer* server, size_t arrival) : server_(*server), arrival_(arrival) {}
    bool HasRoom() const override { return true; }
    void OnOutput(Output) override {}
    void OnFinished(RequestSummary summary) override;

   private:
    VirtualServer& server_;
    size_t arrival_;
  };
  class NullObserver : public EngineObserver {
    void OnStep(const StepStats&) override {}
    void OnGauges(const EngineGauges&) override {}
    void OnFinished(const RequestSummary&) override {}
    void OnPreempted() override {}
    void OnRejected(const absl::Status&) override {}
  };
  /// What a copy of the process tells.
  struct Answer {
    size_t arrival;
    absl::Time end;               ///< infinite if late
    std::vector<size_t> present;  ///< requests that the engine had
    std::vector<size_t> late;     ///< of these, those that did not complete
  };

  void Offer(size_t arrival);
  void Refused(size_t arrival, const absl::Status& status);
  bool Iterate();
  void Ask(size_t arrival);
  [[noreturn]] void LetIn(size_t arrival, const std::vector<size_t>& present, int pipe);
  std::vector<size_t> Present() const;

  EngineOptions options_;
  absl::Time now_ = absl::UnixEpoch();
  LetterTokenizer tokenizer_{CoreBench::kVocab};
  TimedModel model_;
  NullObserver observer_;
  EngineCore core_;
  Mailbox mailbox_;
  std::vector<Arrival> arrivals_;
  std::vector<Fate> fates_;
  std::deque<Sink> sinks_;
  size_t next_ = 0;
  std::vector<size_t> dropped_;  ///< in this step, for their deadline
  std::function<bool()> wants_probe_;
  std::vector<Answer> answers_;
};

}  // namespace winnow

#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/request/engine_options.h"
#include "engine/request/request.h"
#include "engine/scheduling/load.h"
#include "engine/sequence/sequence.h"
#include "engine/text/tokenizer.h"

namespace winnow {

/// A request that the engine has taken: its sequences, its reader, and the account of what it used
/// and how long it took, which becomes its summary.
class ActiveRequest {
 public:
  /// `load` is what it counts while it waits, `arrival` orders requests by age, `seed` is for a
  /// request that brings none. REQUIRES: `tokenizer` outlives this object, `sink` lives until
  /// Finish.
  ActiveRequest(Request request, RequestSink* sink, absl::Time submitted, const Load& load,
                int64_t arrival, uint64_t seed, const EngineOptions& options,
                const Tokenizer& tokenizer);
  ActiveRequest(const ActiveRequest&) = delete;
  ActiveRequest& operator=(const ActiveRequest&) = delete;

  const Request& request() const { return request_; }
  const Load& load() const { return load_; }
  /// [n]; the first one computes the prompt, and the others fork from it.
  std::span<const std::unique_ptr<Sequence>> sequences() const { return sequences_; }
  Sequence& first() const { return *sequences_.front(); }

  /// Whether it has been started; until then it waits.
  bool started() const { return summary_.started; }
  /// Whether all its sequences have finished.
  bool complete() const;

  /// Takes over whether its reader is slow.
  void NotePauses();
  /// It is started, and will be computed from the prompt's token `cached_tokens` on.
  void NoteStart(int cached_tokens, absl::Time now);
  void NotePreemption() { ++summary_.preemptions; }

  /// Hands the tokens out that one of its sequences got now.
  void Deliver(const Sequence& sequence, Output output, absl::Time now);

  /// Hands out what a sequence that is ended early holds back.
  void Abort(Sequence& sequence) { sink_->OnOutput(sequence.Abort()); }
  /// It is over now; what it used.
  const RequestSummary& Conclude(const absl::Status& status, absl::Time now);
  /// Hands the summary out; the sink is not used any more. REQUIRES: Conclude was called.
  void Finish() { sink_->OnFinished(std::move(summary_)); }

 private:
  const Request request_;
  RequestSink* const sink_;
  const absl::Time submitted_;
  const Load load_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
  std::vector<absl::Time> last_token_;  ///< [n]: when each sequence got tokens last
  RequestSummary summary_;
};

}  // namespace winnow

#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/engine_options.h"
#include "engine/request.h"
#include "engine/step_costs.h"

namespace winnow {

/// What one request, or several, ask for.
struct RequestLoad {
  double requests = 0;
  double sequences = 0;
  double prompt_tokens = 0;
  double decode_tokens = 0;  ///< expected, over all sequences

  RequestLoad& operator+=(const RequestLoad& other);
  RequestLoad& operator-=(const RequestLoad& other);
  RequestLoad operator*(double factor) const;
  /// What it counts in the comparison of clients: see WaitingQueue.
  double service() const;
};

/// What the engine works on.
struct RunningLoad {
  int sequences = 0;
  int free_slots = 0;              ///< sequences that could start now; 0 while the queue stands
  int64_t pending_prompt_tokens = 0;
  double decode_tokens = 0;        ///< expected from begin to end, over all sequences
};

/// Decides who may wait, by what waits and by measured costs. A value: the engine keeps the true
/// one, and threads that submit a copy of it.
///
/// A request is refused
///   - when the queue is full by requests or by prompt tokens, unless another one gives way. In the
///     queue's lowest priority, the client with the most requests gives up the one that came last.
///     So a full queue lets a request of a higher priority in, and one of a client that has fewer.
///   - when it probably can't end before its deadline:
///       wait   = prompts before its own + turns before its own
///       finish = (wait + its prompt + its tokens x a step's time) x kDeadlineMargin
///     with the time of a step that decodes for all that would run then, and a turn for every
///     request before it that finds no free slot: one of so many sequences as run ends after the
///     mean number of tokens. Before it are requests of higher priority, and of its own those of
///     its client and as much of every other client as fairness gives them meanwhile.
/// An engine without any request takes every request: nothing else can tell how long it takes.
class Admission {
 public:
  explicit Admission(const EngineOptions& options) : options_(options) {}

  /// OK, or why the request may not wait, with a time to retry after (Refusal). The prompt may be
  /// missing: then the answer is for the shortest possible one.
  absl::Status Check(const Request& request, absl::Time now) const;

  /// Whether more waits than may.
  bool Overfull() const;

  /// Whose youngest waiting request gives way: a priority and a client of it. Of clients that have
  /// the same number of requests, `newcomer`'s comes first. REQUIRES: something waits.
  struct Lane {
    int priority;
    std::string client;
  };
  Lane GivesWay(const Request& newcomer) const;

  /// What a request asks for, as far as is known now.
  RequestLoad LoadOf(const Request& request) const;

  /// A request waits from now on, and no longer. What is removed is what was added for it.
  void Add(const Request& request, const RequestLoad& load);
  void Remove(const Request& request, const RequestLoad& load);

  void SetRunning(const RunningLoad& running) { running_ = running; }
  StepCosts& mutable_costs() { return costs_; }
  const StepCosts& costs() const { return costs_; }

  const RequestLoad& waiting() const { return waiting_; }
  /// How long a request without a prompt would wait for its turn if it came now.
  absl::Duration EstimatedWait(int priority, const std::string& client) const;

 private:
  using Clients = std::map<std::string, RequestLoad>;

  RequestLoad Ahead(int priority, const std::string& client, const RequestLoad& own) const;
  double WaitSeconds(const RequestLoad& ahead, double* step_seconds) const;
  bool FullFor(const RequestLoad& load) const;

  EngineOptions options_;
  std::map<int, Clients> levels_;  ///< by priority: what waits
  RequestLoad waiting_;            ///< their sum
  RunningLoad running_;
  StepCosts costs_;
};

}  // namespace winnow

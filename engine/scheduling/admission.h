#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/request/engine_options.h"
#include "engine/request/request.h"
#include "engine/scheduling/step_costs.h"

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

/// What the engine works on, by priority. `prompt_tokens` are those still to compute,
/// `decode_tokens` count from begin to end.
struct RunningLoad {
  std::map<int, RequestLoad> levels;
  std::map<std::string, double> client_sequences;
  /// The priority of the sequence that could not be started when its turn had come, if any.
  std::optional<int> stands;
};

/// Decides who may wait, by what waits and by measured costs. A value: the engine keeps the true
/// one, and threads that submit a copy of it.
///
/// A request is refused
///   - when the queue is full by requests or by prompt tokens, unless another one gives way. In the
///     queue's lowest priority, the client with the most requests gives up the one that came last.
///     So a full queue lets a request of a higher priority in, and one of a client that has fewer.
///   - when it probably can't end before its deadline:
///       wait   = prompts that start before it without waiting + turns before its own
///       finish = (wait + its prompt + its tokens x a step's time) x kDeadlineMargin
///     with the time of a step that decodes for all that would run then (LoadedDecodeSeconds), and
///     a turn for every request before it that finds no free slot: one of so many sequences as run
///     ends after the mean number of tokens. Before it are requests of higher priority, and of its
///     own those of its client and as much of every other client as fairness gives them meanwhile.
///     What runs with a lower priority gives way and does not count. Clients that came lately and
///     have less in the engine have places kept, two average requests each, at most as many as the
///     request's own client has: or else who asks most often would take all that becomes free.
///   - when the average request (by tokens, of late, refused ones included) that can end in time
///     at all could not if it came now. Otherwise short requests, which still can, would fill the
///     engine until no others get in.
/// An engine without any request takes every request: nothing else can tell how long it takes.
class Admission {
 public:
  explicit Admission(const EngineOptions& options) : options_(options) {}

  /// Takes note of a request that comes, for the average. A missing prompt counts as an average
  /// one.
  void NoteOffered(const Request& request, absl::Time now);

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

  void SetRunning(RunningLoad running) { running_ = std::move(running); }
  /// Takes over what came to another one.
  void SetOffered(Admission&& other) {
    offered_ = other.offered_;
    came_ = std::move(other.came_);
  }
  StepCosts& mutable_costs() { return costs_; }
  const StepCosts& costs() const { return costs_; }

  const RequestLoad& waiting() const { return waiting_; }
  /// How long a request without a prompt would wait for its turn if it came now.
  absl::Duration EstimatedWait(int priority, const std::string& client) const;

 private:
  using Clients = std::map<std::string, RequestLoad>;

  RequestLoad Ahead(int priority, const std::string& client, const RequestLoad& own) const;
  RequestLoad KeptForOthers(const std::string& client, absl::Time now) const;
  /// How soon a request gets on.
  struct Pace {
    double wait_seconds;  ///< until it is started
    double step_seconds;  ///< from one of its tokens to the next
  };
  Pace PaceOf(int priority, const RequestLoad& ahead) const;
  double FinishSeconds(const Pace& pace, double prompt_tokens, double tokens) const;
  bool FullFor(const RequestLoad& load) const;
  bool WouldGiveWay(const Request& newcomer) const;

  EngineOptions options_;
  std::map<int, Clients> levels_;  ///< by priority: what waits
  RequestLoad waiting_;            ///< their sum
  RunningLoad running_;
  StepCosts costs_;

  /// Weighted sums over requests with deadlines that could be met.
  struct Offered {
    double weight = 0;
    double prompt_tokens = 0;
    double tokens = 0;   ///< of one sequence
    double seconds = 0;  ///< to the deadline
  };
  Offered offered_;
  std::map<std::string, absl::Time> came_;  ///< when clients came last
};

}  // namespace winnow

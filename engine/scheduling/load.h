#pragma once

#include <map>
#include <optional>
#include <string>

#include "engine/request/request.h"
#include "engine/scheduling/work.h"

namespace winnow {

/// What one request, or several, ask of the engine.
struct Load {
  double requests = 0;
  double sequences = 0;
  double prompt_tokens = 0;  ///< whether or not they are known already
  double decode_tokens = 0;  ///< over all sequences
  Work prompts = {};         ///< what is to compute of prompts
  double context = 0;        ///< tokens that a step's decode tokens attend to, one of each sequence

  Load& operator+=(const Load& other);
  Load& operator-=(const Load& other);
  Load operator+(const Load& other) const { return Load(*this) += other; }
  Load operator*(double factor) const;
  /// What it counts in the comparison of clients: see WaitingQueue.
  double service() const;
};

/// What waits: requests that no step has computed yet, summed by priority and client.
class WaitingLoad {
 public:
  using Clients = std::map<std::string, Load>;

  /// A request waits from now on, and no longer. What is removed is what was added for it.
  void Add(const Request& request, const Load& load);
  void Remove(const Request& request, const Load& load);

  /// What is before a request of this load that comes now: all that has a higher priority, and of
  /// its own what its client has, and as much of every other client as fairness gives that
  /// meanwhile.
  Load Ahead(int priority, const std::string& client, const Load& own) const;

  /// By priority; none of its maps is empty.
  const std::map<int, Clients>& levels() const { return levels_; }
  const Load& total() const { return total_; }

 private:
  std::map<int, Clients> levels_;
  Load total_;
};

/// Prompts that are being computed: they share each step's rows (SharePromptRows).
class RunningPrompts {
 public:
  void Add(int priority, const std::string& client, const Work& prompt);

  /// What is computed of them until another one is: all that has a higher priority, what its client
  /// has, unless it is so short that it need not wait for that, and for each other client of its
  /// priority at most as much as for this one.
  Work Beside(int priority, const std::string& client, const Work& own) const;

 private:
  std::map<int, std::map<std::string, Work>> levels_;  ///< by priority and client
};

/// What runs: sequences that own KV blocks. `decode_tokens` count from a sequence's begin to its
/// end, `prompts` is what is still to compute, `requests` and `prompt_tokens` are not counted.
struct RunningLoad {
  void Add(int priority, const std::string& client, const Load& load);
  /// Those of this and higher priorities.
  Load DownTo(int priority) const;

  std::map<int, Load> levels;  ///< by priority
  RunningPrompts prompts;
  std::map<std::string, double> client_sequences;
  /// The priority of the sequence that could not be started when its turn had come, if any.
  std::optional<int> blocked_priority;
};

}  // namespace winnow

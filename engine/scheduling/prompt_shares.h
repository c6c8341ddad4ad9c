#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "engine/scheduling/running_set.h"
#include "engine/sequence/sequence.h"

namespace winnow {

/// How many clients' prompts of a priority share a step at most, so that pieces don't get too
/// small: each piece reads all that comes before it.
inline constexpr int kMaxSharingClients = 8;

/// The rows that each prompt gets of those that a step has for prompts of one priority. A prompt is
/// whatever sequence has a past to compute; `prompts` are ordered by age.
///
/// Clients get equal shares, and who needs less leaves the rest to others: of R rows, each of C
/// clients gets at least floor(R / C), or all it needs, however much the others have to compute.
/// Half of a client's rows are its oldest prompt's, and half are for the shortest first, so that
/// neither waits for the other. A prompt gets fewer than it needs only if all rows are given, and
/// never more than its next span may have.
std::vector<int> SharePromptRows(std::span<Sequence* const> prompts, int rows);

/// Who may start beside the prompts that run. A waiting sequence may
///   - where they leave rows that none of them needs;
///   - where its client has no prompt of its priority yet, and at most kMaxSharingClients would
///     share, and a row be left for each;
///   - where it needs at most half of what the shortest of its client's needs, and two rows be left
///     for each client. Those that are alike go one after another: so most are done earlier, and a
///     later one finds in the prefix cache what an earlier one computed.
class PromptPlaces {
 public:
  /// Of a step with so many rows for prompts.
  PromptPlaces(const RunningSet& running, int rows);

  /// Whether there is a place for a waiting sequence that has so many tokens to compute.
  bool HasPlace(const Sequence& waiting, int pending) const;

 private:
  struct Level {
    int64_t pending = 0;
    std::map<std::string, int> shortest;  ///< tokens to compute, by client
  };

  int rows_;
  std::map<int, Level> levels_;  ///< by priority
};

}  // namespace winnow

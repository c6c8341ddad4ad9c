#pragma once

#include <map>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "engine/request/request.h"
#include "engine/scheduling/engine_load.h"

namespace winnow {

/// What comes, whether or not it is refused: the average request, and which clients came lately.
/// The mailbox owns it.
class Offers {
 public:
  /// Takes note of a request that comes. A missing prompt counts as an average one.
  void Note(const Request& request, const Forecast& forecast, absl::Time now);

  /// The average over requests with deadlines that the engine could meet if it did nothing else,
  /// by the tokens that they ask for, of late: absent before the first one.
  struct Average {
    double prompt_tokens;
    double tokens;   ///< of one sequence
    double seconds;  ///< to the deadline
  };
  std::optional<Average> average() const;

  /// Places for clients that came lately and have less in the engine than this one: two average
  /// requests each, at most as many sequences as this one has. Or else who asks most often would
  /// take all that becomes free.
  Load KeptForOthers(const std::string& client, const EngineLoad& engine, absl::Time now) const;

 private:
  double weight_ = 0;  ///< of the sums, in tokens
  Average sums_ = {};
  std::map<std::string, absl::Time> came_;  ///< when clients came last
};

}  // namespace winnow

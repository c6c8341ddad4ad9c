#pragma once

#include <deque>
#include <map>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "engine/request/request.h"
#include "engine/scheduling/forecast.h"
#include "engine/scheduling/load.h"

namespace winnow {

/// What comes: what each client asks for on average, and which clients were refused lately. The
/// mailbox owns it.
class Offers {
 public:
  /// Takes note of a request that comes, whether or not it is refused then.
  void Note(const Request& request, const Forecast& forecast, absl::Time now);

  /// Takes note that it was refused.
  void NoteRefusal(const Request& request, absl::Time now);

  /// One sequence of a client's average request of late, but for its prompt, and how long its
  /// deadlines are. Requests count by the tokens that they ask for, and those without a deadline,
  /// or with one that claims the engine (Forecast::ClaimsAll), do not.
  struct Average {
    Load load;
    double seconds;
  };
  /// Absent before the first one that counts.
  std::optional<Average> AverageOf(const std::string& client) const;

  /// The clients that were refused within the last minute, at most the last eight, and the
  /// priorities that they asked for.
  struct Refused {
    std::string client;
    int priority;
    absl::Time time;
  };
  const std::deque<Refused>& refused() const { return refused_; }

 private:
  struct Client {
    absl::Time came;  ///< last
    double weight = 0;
    Average sum = {};  ///< times the weight
  };

  std::map<std::string, Client> clients_;
  std::deque<Refused> refused_;  ///< oldest first
};

}  // namespace winnow

#pragma once

#include <string>

#include "engine/request/engine_options.h"
#include "engine/request/request.h"
#include "engine/scheduling/load.h"

namespace winnow {

/// How much may wait: so many requests, and so many prompt tokens unless it is a single request.
///
/// In a full queue, a request gives way: in the queue's lowest priority, of the client with the
/// most requests, the one that came last. So a full queue lets a request of a higher priority in,
/// and one of a client that has fewer.
class QueueBounds {
 public:
  explicit QueueBounds(const EngineOptions& options)
      : max_requests_(options.max_waiting_requests), max_tokens_(options.max_waiting_tokens) {}

  /// Whether more waits than may.
  bool Exceeded(const WaitingLoad& waiting) const;

  /// Which bound a request of this load would exceed, if any.
  enum class Bound { kNone, kRequests, kTokens };
  Bound ExceededWith(const WaitingLoad& waiting, const Load& load) const;

  /// Of whose requests the youngest gives way: those of a client and priority. Of clients that have
  /// the same number of requests, `newcomer`'s comes first. REQUIRES: something waits.
  struct Owner {
    int priority;
    std::string client;
  };
  static Owner GivesWay(const WaitingLoad& waiting, const Request& newcomer);

  /// Whether GivesWay would name a newcomer's client and priority if it waited, too. REQUIRES:
  /// something waits.
  static bool WouldGiveWay(const WaitingLoad& waiting, const Request& newcomer);

  int max_requests() const { return max_requests_; }
  int max_tokens() const { return max_tokens_; }

 private:
  int max_requests_;
  int max_tokens_;
};

}  // namespace winnow

#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace winnow {

/// Why a request that was valid was not served, for lack of capacity.
enum class ShedReason {
  kQueueRequests,  ///< as many requests wait as may
  kQueueTokens,    ///< as many prompt tokens wait as may
  kDeadline,       ///< it would not have ended before its deadline
  kDisplaced,      ///< gave its place in the full queue to another request
  kOverdue,        ///< its deadline has come out of reach while it waited
};

inline constexpr ShedReason kShedReasons[] = {ShedReason::kQueueRequests, ShedReason::kQueueTokens,
                                              ShedReason::kDeadline, ShedReason::kDisplaced,
                                              ShedReason::kOverdue};

/// As metrics and logs spell it: "queue_requests", ...
std::string_view ShedReasonName(ShedReason reason);

/// RESOURCE_EXHAUSTED with the reason, and with the time after which the same request may find
/// room.
absl::Status Refusal(ShedReason reason, const std::string& message, absl::Duration retry_after);

/// What Refusal has put into a status; nothing of others.
struct RefusalDetails {
  ShedReason reason;
  absl::Duration retry_after;
};
std::optional<RefusalDetails> DetailsOf(const absl::Status& status);

}  // namespace winnow

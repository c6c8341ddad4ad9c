#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/security/client_quota.h"

namespace winnow {

/// One thing that is wrong with a request.
struct FieldViolation {
  std::string field;        ///< path in the request message, such as "stop.strings[2]"
  std::string description;  ///< a sentence that names the limit
};

/// How a call ends, whatever the protocol that tells its client so.
struct CallStatus {
  absl::Status status;
  std::vector<FieldViolation> violations;     ///< all of them, with INVALID_ARGUMENT
  std::optional<absl::Duration> retry_after;  ///< when there may be room, with RESOURCE_EXHAUSTED
};

/// The end that the engine, or a check before it, says. A Refusal's time to retry after is taken
/// out of it, in whole milliseconds.
CallStatus EndOf(const absl::Status& status);

/// INVALID_ARGUMENT; its message spells the first violations. REQUIRES: there is one.
CallStatus Invalid(std::vector<FieldViolation> violations);

/// RESOURCE_EXHAUSTED with the quota's limit in words.
CallStatus OverQuota(const ClientQuota::Refusal& refusal);

/// RESOURCE_EXHAUSTED: TextPool has taken in as much as it may.
CallStatus TooMuchText();

/// The text, cut between characters if it is long. Statuses travel in headers, of which clients
/// take 8 KiB: what quotes a request is cut short.
std::string Shortened(std::string text);

}  // namespace winnow

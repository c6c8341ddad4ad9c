#include "engine/request/refusal.h"

#include <cstring>

#include "absl/strings/cord.h"

namespace winnow {
namespace {

constexpr char kPayload[] = "winnow/refusal";

}  // namespace

std::string_view ShedReasonName(ShedReason reason) {
  switch (reason) {
    case ShedReason::kQueueRequests:
      return "queue_requests";
    case ShedReason::kQueueTokens:
      return "queue_tokens";
    case ShedReason::kDeadline:
      return "deadline";
    case ShedReason::kDisplaced:
      return "displaced";
    case ShedReason::kOverdue:
      return "overdue";
  }
  return "";
}

absl::Status Refusal(ShedReason reason, const std::string& message, absl::Duration retry_after) {
  absl::Status status = absl::ResourceExhaustedError(message);
  const RefusalDetails details = {reason, retry_after};
  std::string bytes(sizeof(details), '\0');
  std::memcpy(bytes.data(), &details, sizeof(details));
  status.SetPayload(kPayload, absl::Cord(bytes));
  return status;
}

std::optional<RefusalDetails> DetailsOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kPayload);
  if (!payload.has_value()) return std::nullopt;
  const std::string bytes(*payload);
  RefusalDetails details;
  std::memcpy(&details, bytes.data(), sizeof(details));
  return details;
}

}  // namespace winnow

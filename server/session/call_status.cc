#include "server/session/call_status.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/request/refusal.h"

namespace winnow {
namespace {

/// Violations that the message spells.
constexpr size_t kSpelledViolations = 3;
constexpr size_t kMaxQuotedBytes = 300;
/// Texts that wait take about as long at worst.
constexpr absl::Duration kTextRetry = absl::Seconds(1);

}  // namespace

CallStatus EndOf(const absl::Status& status) {
  CallStatus end = {.status = status, .violations = {}, .retry_after = {}};
  if (const std::optional<RefusalDetails> refusal = DetailsOf(status); refusal.has_value()) {
    end.retry_after = absl::Trunc(refusal->retry_after, absl::Milliseconds(1));
  }
  return end;
}

CallStatus Invalid(std::vector<FieldViolation> violations) {
  std::string message;
  const size_t spelled = std::min(violations.size(), kSpelledViolations);
  for (size_t i = 0; i < spelled; ++i) {
    absl::StrAppend(&message, i == 0 ? "" : "; ", violations[i].field, ": ",
                    violations[i].description);
  }
  if (violations.size() > spelled) {
    absl::StrAppend(&message, "; and ", violations.size() - spelled, " more");
  }
  return {.status = absl::InvalidArgumentError(message),
          .violations = std::move(violations),
          .retry_after = {}};
}

CallStatus OverQuota(const ClientQuota::Refusal& refusal) {
  const std::string message =
      refusal.too_many_requests
          ? absl::StrCat("this client may have ", refusal.limits.requests,
                         " requests at the same time")
          : absl::StrCat("this client may take ", refusal.limits.tokens_per_minute,
                         " tokens a minute");
  return {.status = absl::ResourceExhaustedError(message),
          .violations = {},
          .retry_after = refusal.retry_after};
}

CallStatus TooMuchText() {
  return {.status = absl::ResourceExhaustedError("too many long texts wait to be tokenized"),
          .violations = {},
          .retry_after = kTextRetry};
}

std::string Shortened(std::string text) {
  if (text.size() <= kMaxQuotedBytes) return text;
  size_t end = kMaxQuotedBytes;
  while (end > 0 && (text[end] & 0xC0) == 0x80) --end;
  return text.substr(0, end) + "...";
}

}  // namespace winnow

#include "server/security/client_quota.h"

#include <algorithm>

namespace winnow {
namespace {

/// Nobody knows when a running request ends; most do within seconds.
constexpr absl::Duration kRequestsRetry = absl::Seconds(1);

}  // namespace

void ClientQuota::SetLimits(const QuotaLimits& limits) {
  absl::MutexLock lock(&mutex_);
  limits_ = limits;
}

void ClientQuota::Refill(absl::Time now) {
  const auto most = static_cast<double>(limits_.tokens_per_minute);
  const double gained =
      balance_tokens_ ? absl::FDivDuration(now - refilled_, absl::Minutes(1)) * most : 0;
  balance_tokens_ = std::min(balance_tokens_.value_or(most) + std::max(gained, 0.0), most);
  refilled_ = std::max(refilled_, now);  // calls tell their times in no order
}

// Why there are no tokens, if there are none; also brings the balance up to date.
std::optional<ClientQuota::Refusal> ClientQuota::CheckBalance(absl::Time now) {
  if (limits_.tokens_per_minute == 0) return std::nullopt;
  Refill(now);
  if (*balance_tokens_ > 0) return std::nullopt;
  const double minutes = (1 - *balance_tokens_) / static_cast<double>(limits_.tokens_per_minute);
  return Refusal{false, limits_, absl::Minutes(minutes)};
}

std::optional<ClientQuota::Refusal> ClientQuota::Begin(absl::Time now) {
  absl::MutexLock lock(&mutex_);
  if (limits_.requests > 0 && requests_ >= limits_.requests) {
    return Refusal{true, limits_, kRequestsRetry};
  }
  if (auto refusal = CheckBalance(now)) return refusal;
  ++requests_;
  return std::nullopt;
}

std::optional<ClientQuota::Refusal> ClientQuota::Charge(int64_t prompt_tokens, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  if (auto refusal = CheckBalance(now)) return refusal;
  if (limits_.tokens_per_minute > 0) *balance_tokens_ -= static_cast<double>(prompt_tokens);
  return std::nullopt;
}

void ClientQuota::End(int64_t tokens, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  --requests_;
  if (limits_.tokens_per_minute == 0) return;
  Refill(now);
  *balance_tokens_ -= static_cast<double>(tokens);
}

}  // namespace winnow

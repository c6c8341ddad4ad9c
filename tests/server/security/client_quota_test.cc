#include "server/security/client_quota.h"

#include <gtest/gtest.h>

namespace winnow {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1'000'000);

/// A request with such a prompt comes.
std::optional<ClientQuota::Refusal> Begin(ClientQuota& quota, int64_t prompt_tokens,
                                          absl::Time now) {
  auto refusal = quota.Begin(now);
  if (!refusal.has_value()) refusal = quota.Charge(prompt_tokens, now);
  return refusal;
}

TEST(ClientQuota, ZeroLimitsAdmitEverything) {
  ClientQuota quota({});
  for (int i = 0; i < 1000; ++i) EXPECT_FALSE(Begin(quota, 1'000'000, kStart).has_value());
}

TEST(ClientQuota, AsManyRequestsRunAsTheLimitSays) {
  ClientQuota quota({.requests = 2});
  EXPECT_FALSE(Begin(quota, 1, kStart).has_value());
  EXPECT_FALSE(Begin(quota, 1, kStart).has_value());
  const auto refusal = Begin(quota, 1, kStart);
  ASSERT_TRUE(refusal.has_value());
  EXPECT_TRUE(refusal->too_many_requests);
  EXPECT_EQ(refusal->limits.requests, 2);
  EXPECT_GT(refusal->retry_after, absl::ZeroDuration());
  quota.End(1, kStart);
  EXPECT_FALSE(Begin(quota, 1, kStart).has_value());
}

TEST(ClientQuota, PromptsAndGeneratedTokensArePaidOffEvenly) {
  ClientQuota quota({.tokens_per_minute = 600});  // 10 a second
  EXPECT_FALSE(Begin(quota, 500, kStart).has_value());
  quota.End(200, kStart);  // 100 owed
  const auto refusal = Begin(quota, 1, kStart);
  ASSERT_TRUE(refusal.has_value());
  EXPECT_FALSE(refusal->too_many_requests);
  EXPECT_EQ(refusal->limits.tokens_per_minute, 600);
  EXPECT_GT(refusal->retry_after, absl::Seconds(10));
  EXPECT_LT(refusal->retry_after, absl::Seconds(11));
  EXPECT_TRUE(Begin(quota, 1, kStart + absl::Seconds(9)).has_value());
  EXPECT_FALSE(Begin(quota, 1, kStart + refusal->retry_after + absl::Milliseconds(1)).has_value());
}

TEST(ClientQuota, WhatIsNotUsedIsKeptForOneMinuteAtMost) {
  ClientQuota quota({.tokens_per_minute = 60});
  EXPECT_FALSE(Begin(quota, 60, kStart).has_value());
  EXPECT_TRUE(Begin(quota, 1, kStart).has_value());
  const absl::Time much_later = kStart + absl::Hours(10);
  EXPECT_FALSE(Begin(quota, 60, much_later).has_value());
  EXPECT_TRUE(Begin(quota, 1, much_later).has_value());
}

TEST(ClientQuota, ARequestThatNeverRanCostsNothing) {
  ClientQuota quota({.requests = 1, .tokens_per_minute = 60});
  EXPECT_FALSE(Begin(quota, 60, kStart).has_value());
  quota.End(-60, kStart);
  EXPECT_FALSE(Begin(quota, 60, kStart).has_value());
}

TEST(ClientQuota, RequestsAreRefusedBeforeTheirPromptsAreKnown) {
  ClientQuota quota({.requests = 2, .tokens_per_minute = 60});
  EXPECT_FALSE(quota.Begin(kStart).has_value());
  EXPECT_FALSE(quota.Begin(kStart).has_value());
  EXPECT_TRUE(quota.Begin(kStart)->too_many_requests);
  EXPECT_FALSE(quota.Charge(100, kStart).has_value());
  // The other one was admitted while there was something left, which is gone now.
  EXPECT_FALSE(quota.Charge(1, kStart)->too_many_requests);
  quota.End(0, kStart);
  EXPECT_FALSE(quota.Begin(kStart)->too_many_requests);
}

TEST(ClientQuota, NewLimitsKeepWhatWasTaken) {
  ClientQuota quota({.requests = 3, .tokens_per_minute = 100});
  EXPECT_FALSE(Begin(quota, 100, kStart).has_value());
  quota.SetLimits({.requests = 1, .tokens_per_minute = 1000});
  const auto too_many_requests = Begin(quota, 1, kStart);
  ASSERT_TRUE(too_many_requests.has_value());
  EXPECT_TRUE(too_many_requests->too_many_requests);
  quota.End(0, kStart);
  const auto too_many_tokens = Begin(quota, 1, kStart);
  ASSERT_TRUE(too_many_tokens.has_value());
  EXPECT_FALSE(too_many_tokens->too_many_requests);
  EXPECT_FALSE(Begin(quota, 1, kStart + absl::Seconds(1)).has_value());
}

}  // namespace
}  // namespace winnow

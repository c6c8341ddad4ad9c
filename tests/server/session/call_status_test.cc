#include "server/session/call_status.h"

#include <gtest/gtest.h>

#include "engine/request/refusal.h"

namespace winnow {
namespace {

TEST(CallStatusTest, ARefusalOfTheEngineSaysWhenToRetryAndOthersDoNot) {
  const CallStatus refused =
      EndOf(Refusal(ShedReason::kQueueRequests, "full", absl::Microseconds(2'250'700)));
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status));
  EXPECT_EQ(refused.retry_after, absl::Milliseconds(2250));
  EXPECT_FALSE(EndOf(absl::UnavailableError("draining")).retry_after.has_value());
  EXPECT_TRUE(EndOf(absl::OkStatus()).status.ok());
}

TEST(CallStatusTest, TheMessageSpellsTheFirstViolations) {
  EXPECT_EQ(std::string(Invalid({{"a", "is bad"}}).status.message()), "a: is bad");
  const CallStatus end =
      Invalid({{"a", "is bad"}, {"b", "is worse"}, {"c", "is odd"}, {"d", "is too long"}});
  EXPECT_TRUE(absl::IsInvalidArgument(end.status));
  EXPECT_EQ(std::string(end.status.message()), "a: is bad; b: is worse; c: is odd; and 1 more");
  ASSERT_EQ(end.violations.size(), 4u);
  EXPECT_EQ(end.violations[3].description, "is too long");
}

TEST(CallStatusTest, LongTextIsCutBetweenCharacters) {
  EXPECT_EQ(Shortened("short"), "short");
  std::string text(299, 'x');
  EXPECT_EQ(Shortened(text + "ü and more"), text + "...");
}

}  // namespace
}  // namespace winnow

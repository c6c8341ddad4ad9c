#include "engine/cache/host_tier.h"

#include <gtest/gtest.h>

#include <optional>

namespace winnow {
namespace {

TEST(HostTierTest, TakesTheSlotThatWasUsedLongestAgoOnceAllAreInUse) {
  HostTier tier(3);
  for (int slot = 0; slot < 3; ++slot) {
    EXPECT_EQ(tier.used_slots(), slot);
    EXPECT_EQ(tier.Take(), slot);
  }
  tier.Touch(0);
  EXPECT_EQ(tier.Take(), 1);
  EXPECT_EQ(tier.Take(), 2);
  EXPECT_EQ(tier.Take(), 0);
  EXPECT_EQ(tier.used_slots(), 3);
}

TEST(HostTierTest, PinnedSlotsAreNotTakenUntilTheLastUnpin) {
  HostTier tier(2);
  tier.Take();
  tier.Take();
  tier.Pin(0);
  tier.Pin(0);
  tier.Touch(0);
  EXPECT_EQ(tier.pinned_slots(), 1);
  EXPECT_EQ(tier.Take(), 1);
  EXPECT_EQ(tier.Take(), 1);
  tier.Pin(1);
  EXPECT_EQ(tier.Take(), std::nullopt);
  tier.Unpin(0);
  EXPECT_EQ(tier.Take(), std::nullopt);
  tier.Unpin(0);
  EXPECT_EQ(tier.Take(), 0);
}

TEST(HostTierTest, WithoutSlotsNothingIsTaken) {
  HostTier tier(0);
  EXPECT_EQ(tier.Take(), std::nullopt);
}

}  // namespace
}  // namespace winnow

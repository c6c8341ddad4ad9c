#include "engine/cache/kv_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace winnow {
namespace {

using ::testing::ElementsAre;

constexpr int kBlocks = 6;
constexpr int kBlockTokens = 4;

/// Notes what is to be copied.
class RecordingMemory : public BlockMemory {
 public:
  absl::Status Copy(const BlockCopy& copy) override {
    copies.push_back(copy);
    return result;
  }
  std::vector<BlockCopy> copies;
  absl::Status result;
};

class KvStoreTest : public testing::Test {
 protected:
  KvStoreTest() : tokens_(kBlocks * kBlockTokens) {
    std::iota(tokens_.begin(), tokens_.end(), 100);
  }
  std::span<const int32_t> First(int tokens) const {
    return std::span(tokens_).first(static_cast<size_t>(tokens));
  }

  RecordingMemory memory_;
  KvStore store_{kBlocks, kBlockTokens, memory_};
  std::vector<int32_t> tokens_;
};

TEST_F(KvStoreTest, ExtendTakesNoMoreBlocksThanTheTokensNeed) {
  BlockTable table;
  EXPECT_TRUE(store_.Extend(table, 5));
  EXPECT_EQ(table.blocks().size(), 2u);
  EXPECT_TRUE(store_.Extend(table, 8));
  EXPECT_EQ(table.blocks().size(), 2u);
  EXPECT_TRUE(store_.Extend(table, 3)) << "fewer than it holds";
  EXPECT_EQ(store_.free_blocks(), 4);
  store_.Release(table);
}

TEST_F(KvStoreTest, ExtendWithoutRoomChangesNothing) {
  BlockTable table;
  ASSERT_TRUE(store_.Extend(table, 4));
  EXPECT_FALSE(store_.Extend(table, 4 * kBlocks + 1));
  EXPECT_EQ(table.blocks().size(), 1u);
  EXPECT_EQ(store_.free_blocks(), kBlocks - 1);
  store_.Release(table);
}

TEST_F(KvStoreTest, TrimGivesBackWhatRejectedDraftsTook) {
  BlockTable table;
  ASSERT_TRUE(store_.Extend(table, 13));
  const int32_t second = table.blocks()[1];
  store_.Trim(table, 6);
  EXPECT_EQ(table.blocks().size(), 2u);
  EXPECT_EQ(table.blocks()[1], second);
  EXPECT_EQ(store_.free_blocks(), 4);
  store_.Release(table);
  EXPECT_EQ(store_.free_blocks(), kBlocks);
}

TEST_F(KvStoreTest, PublishedBlocksAreFoundByTheirTokensAndSaltAfterTheirOwnerHasGone) {
  BlockTable first;
  ASSERT_TRUE(store_.Extend(first, 10));
  store_.Publish(first, First(10), "salt");
  const std::vector<int32_t> blocks(first.blocks().begin(), first.blocks().end());
  store_.Release(first);

  BlockTable other;
  EXPECT_EQ(store_.KnownTokens(First(10), "pepper"), 0);
  EXPECT_EQ(store_.KnownTokens(First(7), "salt"), 4);
  EXPECT_EQ(store_.TakePrefix(First(10), "pepper", other), 0);
  EXPECT_EQ(store_.TakePrefix(First(7), "salt", other), 4) << "full blocks only";
  store_.Release(other);
  EXPECT_EQ(store_.TakePrefix(First(12), "salt", other), 8) << "the third one was not full";
  EXPECT_THAT(other.blocks(), ElementsAre(blocks[0], blocks[1]));
  store_.Release(other);
}

TEST_F(KvStoreTest, RoomIsTakenFromWhatIsPublishedLast) {
  BlockTable first;
  ASSERT_TRUE(store_.Extend(first, 8));
  store_.Publish(first, First(8), "");
  store_.Release(first);
  EXPECT_EQ(store_.free_blocks(), kBlocks);
  BlockTable second;
  ASSERT_TRUE(store_.Extend(second, 4 * (kBlocks - 1)));
  BlockTable third;
  EXPECT_EQ(store_.TakePrefix(First(8), "", third), 4) << "the end was overwritten first";
  store_.Release(second);
  store_.Release(third);
}

TEST_F(KvStoreTest, ForkSharesFullBlocksAndCopiesThePartlyFilledOne) {
  BlockTable parent;
  ASSERT_TRUE(store_.Extend(parent, 10));
  BlockTable child;
  EXPECT_EQ(*store_.Fork(parent, 10, child), true);
  EXPECT_EQ(child.blocks()[0], parent.blocks()[0]);
  EXPECT_EQ(child.blocks()[1], parent.blocks()[1]);
  EXPECT_NE(child.blocks()[2], parent.blocks()[2]);
  ASSERT_EQ(memory_.copies.size(), 1u);
  EXPECT_EQ(memory_.copies[0].from, parent.blocks()[2]);
  EXPECT_EQ(memory_.copies[0].to, child.blocks()[2]);
  EXPECT_EQ(memory_.copies[0].tokens, 2);
  const KvStore::Holding holdings[] = {{&parent, 10}, {&child, 10}};
  store_.CheckInvariants(holdings);
  store_.Release(parent);
  EXPECT_EQ(store_.used_blocks(), 3);
  store_.Release(child);
}

TEST_F(KvStoreTest, ForkAtABlockBoundaryCopiesNothingAndNeedsNoRoom) {
  BlockTable parent;
  ASSERT_TRUE(store_.Extend(parent, kBlocks * kBlockTokens));
  BlockTable child;
  EXPECT_EQ(*store_.Fork(parent, kBlocks * kBlockTokens, child), true);
  EXPECT_TRUE(memory_.copies.empty());
  store_.Release(parent);
  store_.Release(child);
}

TEST_F(KvStoreTest, ForkWithoutRoomForTheCopyChangesNothing) {
  BlockTable parent;
  ASSERT_TRUE(store_.Extend(parent, kBlocks * kBlockTokens));
  BlockTable child;
  EXPECT_EQ(*store_.Fork(parent, kBlocks * kBlockTokens - 1, child), false);
  EXPECT_TRUE(child.empty());
  store_.Release(parent);
}

TEST_F(KvStoreTest, ForkReportsThatTheDeviceFailed) {
  memory_.result = absl::InternalError("gone");
  BlockTable parent;
  ASSERT_TRUE(store_.Extend(parent, 1));
  BlockTable child;
  EXPECT_TRUE(absl::IsInternal(store_.Fork(parent, 1, child).status()));
  store_.Release(parent);
  store_.Release(child);
  EXPECT_EQ(store_.free_blocks(), kBlocks);
}

TEST_F(KvStoreTest, BlocksThatOthersHoldDoNotComeFree) {
  BlockTable a;
  ASSERT_TRUE(store_.Extend(a, 9));
  BlockTable b;
  ASSERT_EQ(*store_.Fork(a, 8, b), true);
  const BlockTable* both[] = {&a, &b};
  EXPECT_EQ(store_.FreeWithout({}), 3);
  EXPECT_EQ(store_.FreeWithout(std::span(both).first(1)), 4) << "two blocks are b's, too";
  EXPECT_EQ(store_.FreeWithout(both), kBlocks);
  store_.Release(a);
  store_.Release(b);
}

TEST_F(KvStoreTest, InvariantsSeeALeakAndASharedBlockThatMayBeWritten) {
  BlockTable parent;
  ASSERT_TRUE(store_.Extend(parent, 4));
  EXPECT_DEATH(store_.CheckInvariants({}), "invariant broken");
  BlockTable child;
  ASSERT_EQ(*store_.Fork(parent, 4, child), true);
  const KvStore::Holding full[] = {{&parent, 4}, {&child, 4}};
  store_.CheckInvariants(full);
  const KvStore::Holding partly[] = {{&parent, 3}, {&child, 4}};
  EXPECT_DEATH(store_.CheckInvariants(partly), "invariant broken");
  store_.Release(parent);
  store_.Release(child);
}

}  // namespace
}  // namespace winnow

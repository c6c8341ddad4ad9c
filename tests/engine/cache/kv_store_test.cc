#include "engine/cache/kv_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
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
  KvStoreTest() : tokens_(8 * kBlockTokens) { std::iota(tokens_.begin(), tokens_.end(), 100); }
  std::span<const int32_t> First(int tokens) const {
    return std::span(tokens_).first(static_cast<size_t>(tokens));
  }

  RecordingMemory memory_;
  KvStore store_{kBlocks, kBlockTokens, {{0}, 1, kBlockTokens}, memory_};
  std::vector<int32_t> tokens_;
};

TEST_F(KvStoreTest, ExtendTakesNoMoreBlocksThanTheTokensNeed) {
  BlockTable table;
  EXPECT_TRUE(store_.Extend(table, 0, 5));
  EXPECT_EQ(table.blocks().size(), 2u);
  EXPECT_TRUE(store_.Extend(table, 0, 8));
  EXPECT_EQ(table.blocks().size(), 2u);
  EXPECT_TRUE(store_.Extend(table, 0, 3)) << "fewer than it holds";
  EXPECT_EQ(store_.free_blocks(), 4);
  store_.Release(table);
}

TEST_F(KvStoreTest, ExtendWithoutRoomChangesNothing) {
  BlockTable table;
  ASSERT_TRUE(store_.Extend(table, 0, 4));
  EXPECT_FALSE(store_.Extend(table, 0, 4 * kBlocks + 1));
  EXPECT_EQ(table.blocks().size(), 1u);
  EXPECT_EQ(store_.free_blocks(), kBlocks - 1);
  store_.Release(table);
}

TEST_F(KvStoreTest, TrimGivesBackWhatRejectedDraftsTook) {
  BlockTable table;
  ASSERT_TRUE(store_.Extend(table, 0, 13));
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
  ASSERT_TRUE(store_.Extend(first, 0, 10));
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
  ASSERT_TRUE(store_.Extend(first, 0, 8));
  store_.Publish(first, First(8), "");
  store_.Release(first);
  EXPECT_EQ(store_.free_blocks(), kBlocks);
  BlockTable second;
  ASSERT_TRUE(store_.Extend(second, 0, 4 * (kBlocks - 1)));
  BlockTable third;
  EXPECT_EQ(store_.TakePrefix(First(8), "", third), 4) << "the end was overwritten first";
  store_.Release(second);
  store_.Release(third);
}

TEST_F(KvStoreTest, ForkSharesFullBlocksAndCopiesThePartlyFilledOne) {
  BlockTable parent;
  ASSERT_TRUE(store_.Extend(parent, 0, 10));
  BlockTable child;
  EXPECT_EQ(*store_.Fork(parent, 10, child), true);
  EXPECT_EQ(child.blocks()[0], parent.blocks()[0]);
  EXPECT_EQ(child.blocks()[1], parent.blocks()[1]);
  EXPECT_NE(child.blocks()[2], parent.blocks()[2]);
  ASSERT_EQ(memory_.copies.size(), 1u);
  EXPECT_EQ(memory_.copies[0].from, parent.blocks()[2]);
  EXPECT_EQ(memory_.copies[0].to, child.blocks()[2]);
  EXPECT_EQ(memory_.copies[0].tokens, 2);
  const KvStore::Holding holdings[] = {{&parent, 10, 10, 10}, {&child, 10, 10, 10}};
  store_.CheckInvariants(holdings);
  store_.Release(parent);
  EXPECT_EQ(store_.used_blocks(), 3);
  store_.Release(child);
}

TEST_F(KvStoreTest, ForkAtABlockBoundaryCopiesNothingAndNeedsNoRoom) {
  BlockTable parent;
  ASSERT_TRUE(store_.Extend(parent, 0, kBlocks * kBlockTokens));
  BlockTable child;
  EXPECT_EQ(*store_.Fork(parent, kBlocks * kBlockTokens, child), true);
  EXPECT_TRUE(memory_.copies.empty());
  store_.Release(parent);
  store_.Release(child);
}

TEST_F(KvStoreTest, ForkWithoutRoomForTheCopyChangesNothing) {
  BlockTable parent;
  ASSERT_TRUE(store_.Extend(parent, 0, kBlocks * kBlockTokens));
  BlockTable child;
  EXPECT_EQ(*store_.Fork(parent, kBlocks * kBlockTokens - 1, child), false);
  EXPECT_TRUE(child.empty());
  store_.Release(parent);
}

TEST_F(KvStoreTest, ForkReportsThatTheDeviceFailed) {
  memory_.result = absl::InternalError("gone");
  BlockTable parent;
  ASSERT_TRUE(store_.Extend(parent, 0, 1));
  BlockTable child;
  EXPECT_TRUE(absl::IsInternal(store_.Fork(parent, 1, child).status()));
  store_.Release(parent);
  store_.Release(child);
  EXPECT_EQ(store_.free_blocks(), kBlocks);
}

TEST_F(KvStoreTest, BlocksThatOthersHoldDoNotComeFree) {
  BlockTable a;
  ASSERT_TRUE(store_.Extend(a, 0, 9));
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
  ASSERT_TRUE(store_.Extend(parent, 0, 4));
  EXPECT_DEATH(store_.CheckInvariants({}), "invariant broken");
  BlockTable child;
  ASSERT_EQ(*store_.Fork(parent, 4, child), true);
  const KvStore::Holding full[] = {{&parent, 4, 4, 4}, {&child, 4, 4, 4}};
  store_.CheckInvariants(full);
  const KvStore::Holding partly[] = {{&parent, 3, 3, 4}, {&child, 4, 4, 4}};
  EXPECT_DEATH(store_.CheckInvariants(partly), "invariant broken");
  store_.Release(parent);
  store_.Release(child);
}

/// A group that keeps everything, and one whose rows see 6 tokens; steps of up to 4 rows.
class WindowedKvStoreTest : public KvStoreTest {
 protected:
  static constexpr int kPoolBlocks = 20;

  /// The blocks that hold what rows at positions from `computed` on see, and those of a step.
  static int MostHeld() { return (6 - 1 + 4 + 2 * (kBlockTokens - 1)) / kBlockTokens; }

  int Held(const BlockTable& table, int group) const {
    return static_cast<int>(std::ranges::count_if(table.blocks(group),
                                                  [](int32_t block) { return block != kNoBlock; }));
  }

  /// As a sequence of `length` tokens does that is computed up to `end`, four rows a step.
  void Compute(BlockTable& table, int begin, int end, int length) {
    for (int computed = begin; computed < end;) {
      ASSERT_TRUE(store_.Extend(table, computed, length));
      computed = std::min(computed + 4, end);
      store_.Publish(table, First(computed), "");
      store_.FreeBehind(table, computed);
      EXPECT_LE(Held(table, 1), MostHeld());
    }
  }

  KvStore store_{kPoolBlocks, kBlockTokens, {{0, 6}, 4, kBlockTokens}, memory_};
};

TEST_F(WindowedKvStoreTest, BlocksBehindTheWindowComeFreeAndOthersStay) {
  BlockTable table;
  Compute(table, 0, 24, 24);
  EXPECT_EQ(Held(table, 0), 6);
  // The row at position 24 sees 19 to 24.
  EXPECT_EQ(table.blocks(1)[3], kNoBlock);
  EXPECT_NE(table.blocks(1)[4], kNoBlock);
  EXPECT_EQ(Held(table, 1), 2);
  EXPECT_EQ(table.held(), 8);
  EXPECT_EQ(store_.used_blocks(), 8);
  const KvStore::Holding holding[] = {{&table, 24, 24, 24}};
  store_.CheckInvariants(holding);
  store_.Release(table);
  EXPECT_EQ(store_.free_blocks(), kPoolBlocks);
}

TEST_F(WindowedKvStoreTest, EachStepOfAPromptFindsBlocksForItsRows) {
  for (int window = 1; window <= 13; ++window) {
    for (int rows = 1; rows <= 9; ++rows) {
      const KvWindows windows({window}, rows, kBlockTokens);
      for (int computed = 0; computed < 100; ++computed) {
        const int first = windows.FirstBlock(0, computed);
        EXPECT_LE(first * kBlockTokens, std::max(0, computed - window + 1));
        EXPECT_GT((first + 1) * kBlockTokens, std::max(0, computed - window + 1));
        const int end = windows.EndBlock(0, computed, 1000);
        EXPECT_GE(end * kBlockTokens, computed + rows);
        EXPECT_LE((end - first) * kBlockTokens, window - 1 + rows + 2 * (kBlockTokens - 1));
        EXPECT_LE(end - first, windows.EndBlock(0, 0, 1000)) << "more than were given back";
      }
    }
  }
}

TEST_F(WindowedKvStoreTest, APrefixIsFoundWhereItsLastWindowIsStillThere) {
  BlockTable first;
  Compute(first, 0, 24, 24);
  store_.Release(first);
  BlockTable second;
  EXPECT_EQ(store_.TakePrefix(First(24), "", second), 24);
  EXPECT_EQ(Held(second, 0), 6);
  EXPECT_EQ(Held(second, 1), 2) << "what is behind the window is not needed";
  const KvStore::Holding holding[] = {{&second, 24, 24, 24}};
  store_.CheckInvariants(holding);

  // Others take all that is free: what lay behind the window is lost, the window is not.
  BlockTable others;
  ASSERT_TRUE(store_.Extend(others, 0, 4 * (kPoolBlocks - 8) - 12));
  BlockTable third;
  EXPECT_EQ(store_.TakePrefix(First(24), "", third), 24);
  store_.Release(third);
  EXPECT_EQ(store_.KnownTokens(First(20), ""), 0) << "its window begins with a lost block";
  store_.Release(second);
  store_.Release(others);
}

TEST_F(WindowedKvStoreTest, ForksShareWindowsAndGiveThemBackApart) {
  BlockTable parent;
  Compute(parent, 0, 22, 22);
  BlockTable child;
  ASSERT_EQ(*store_.Fork(parent, 22, child), true);
  EXPECT_EQ(memory_.copies.size(), 2u) << "the last block of each group";
  EXPECT_EQ(child.blocks(1)[4], parent.blocks(1)[4]);
  EXPECT_NE(child.blocks(1)[5], parent.blocks(1)[5]);
  const int used = store_.used_blocks();
  for (BlockTable* table : {&parent, &child}) {
    ASSERT_TRUE(store_.Extend(*table, 26, 27));
    store_.FreeBehind(*table, 26);
  }
  EXPECT_EQ(store_.used_blocks(), used + 4 - 1) << "block 4 of the windows is free at last";
  store_.Release(parent);
  store_.Release(child);
  EXPECT_EQ(store_.free_blocks(), kPoolBlocks);
}

}  // namespace
}  // namespace winnow

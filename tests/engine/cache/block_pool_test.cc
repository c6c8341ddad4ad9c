#include "engine/cache/block_pool.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

namespace winnow {
namespace {

TEST(BlockPoolTest, HandsOutEveryBlockOnce) {
  BlockPool pool(5, 4);
  std::set<int32_t> blocks;
  while (pool.free_blocks() > 0) blocks.insert(pool.Allocate());
  EXPECT_EQ(blocks, (std::set<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(pool.used_blocks(), 5);
}

TEST(BlockPoolTest, SharedBlockIsFreeOnlyAfterItsLastOwnerReleasedIt) {
  BlockPool pool(1, 4);
  const int32_t block = pool.Allocate();
  pool.Share(block);
  EXPECT_EQ(pool.owners(block), 2);
  pool.Release(block);
  EXPECT_EQ(pool.free_blocks(), 0);
  pool.Release(block);
  EXPECT_EQ(pool.free_blocks(), 1);
  EXPECT_EQ(pool.owners(block), 0);
}

TEST(BlockPoolTest, BlocksForRoundsUp) {
  const BlockPool pool(1, 4);
  EXPECT_EQ(pool.BlocksFor(0), 0);
  EXPECT_EQ(pool.BlocksFor(1), 1);
  EXPECT_EQ(pool.BlocksFor(4), 1);
  EXPECT_EQ(pool.BlocksFor(5), 2);
}

TEST(BlockPoolTest, AgreesWithACountPerBlockOverRandomUse) {
  constexpr int kBlocks = 7;
  std::mt19937 random(1);
  BlockPool pool(kBlocks, 1);
  std::vector<int> owners(kBlocks, 0);
  std::vector<int32_t> shares;  // one entry per owner
  for (int i = 0; i < 20'000; ++i) {
    const auto action = random() % 3;
    if (action == 0 && pool.free_blocks() > 0) {
      const int32_t block = pool.Allocate();
      ASSERT_EQ(owners[static_cast<size_t>(block)], 0);
      owners[static_cast<size_t>(block)] = 1;
      shares.push_back(block);
    } else if (!shares.empty()) {
      const size_t pick = random() % shares.size();
      const int32_t block = shares[pick];
      if (action == 1) {
        pool.Share(block);
        ++owners[static_cast<size_t>(block)];
        shares.push_back(block);
      } else {
        pool.Release(block);
        --owners[static_cast<size_t>(block)];
        shares.erase(shares.begin() + static_cast<std::ptrdiff_t>(pick));
      }
    }
    ASSERT_EQ(pool.free_blocks(), std::count(owners.begin(), owners.end(), 0));
    for (int32_t block = 0; block < kBlocks; ++block) {
      ASSERT_EQ(pool.owners(block), owners[static_cast<size_t>(block)]);
    }
  }
}

TEST(BlockPoolDeathTest, MisuseEndsTheProcess) {
  BlockPool pool(1, 4);
  EXPECT_DEATH(pool.Release(0), "invariant broken");
  EXPECT_DEATH(pool.Share(0), "invariant broken");
  EXPECT_DEATH(pool.Release(1), "invariant broken");
  pool.Allocate();
  EXPECT_DEATH(pool.Allocate(), "invariant broken");
}

}  // namespace
}  // namespace winnow

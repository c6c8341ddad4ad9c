#include "engine/cache/prefix_cache.h"

#include <gtest/gtest.h>

#include <vector>

namespace winnow {
namespace {

using Tokens = std::vector<int32_t>;

class PrefixCacheTest : public testing::Test {
 protected:
  // Allocates and adds the full blocks of `tokens`, as a sequence that computes them would.
  Tokens Store(const Tokens& tokens, const std::string& salt = "") {
    Tokens blocks;
    PrefixPosition position;
    for (size_t begin = 0; begin + 2 <= tokens.size(); begin += 2) {
      blocks.push_back(pool_.Allocate());
      cache_.Add({&tokens[begin], 2}, salt, {&blocks.back(), 1}, &position);
    }
    return blocks;
  }
  Tokens Match(const Tokens& tokens, const std::string& salt = "") {
    PrefixPosition position;
    Tokens blocks;
    const std::vector<std::vector<KnownBlock>> known_blocks = cache_.Match(tokens, salt, &position);
    for (const KnownBlock& known : known_blocks[0]) {
      blocks.push_back(known.block);
    }
    return blocks;
  }
  void Release(const Tokens& blocks) {
    for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) pool_.Release(*block);
  }

  BlockPool pool_{6, 2};
  KvWindows windows_{{0}, 1, 2};
  PrefixCache cache_{pool_, windows_, /*host_slots=*/0};
};

TEST_F(PrefixCacheTest, FindsTheLongestKnownPrefixOfFullBlocks) {
  const Tokens blocks = Store({1, 2, 3, 4, 5, 6});
  EXPECT_EQ(Match({1, 2, 3, 4, 5, 6, 7}), blocks);
  EXPECT_EQ(Match({1, 2, 3, 4, 5}), Tokens({blocks[0], blocks[1]}));
  EXPECT_EQ(Match({1, 2, 9, 4, 5, 6}), Tokens({blocks[0]}));
  EXPECT_EQ(Match({1}), Tokens());
  EXPECT_EQ(Match({3, 4}), Tokens()) << "the same tokens after others are another block";
}

TEST_F(PrefixCacheTest, SaltsNeverMeet) {
  const Tokens blocks = Store({1, 2, 3, 4}, "a");
  EXPECT_EQ(Match({1, 2, 3, 4}), Tokens());
  EXPECT_EQ(Match({1, 2, 3, 4}, "b"), Tokens());
  EXPECT_EQ(Match({1, 2, 3, 4}, "a"), blocks);
}

TEST_F(PrefixCacheTest, BlocksOutliveTheirOwnersUntilTheyAreNeeded) {
  const Tokens first = Store({1, 2, 3, 4});
  const Tokens second = Store({5, 6});
  Release(first);
  Release(second);
  EXPECT_EQ(pool_.free_blocks(), 6);
  EXPECT_EQ(Match({1, 2, 3, 4}), first);

  Tokens others;
  for (int i = 0; i < 3; ++i) others.push_back(pool_.Allocate());  // those that hold nothing
  EXPECT_EQ(Match({1, 2, 3, 4}), first);
  others.push_back(pool_.Allocate());
  EXPECT_EQ(Match({1, 2, 3, 4}), Tokens({first[0]})) << "the end goes before the start";
  others.push_back(pool_.Allocate());
  EXPECT_EQ(Match({1, 2, 3, 4}), Tokens());
  EXPECT_EQ(Match({5, 6}), second) << "freed last, taken last";
}

TEST_F(PrefixCacheTest, SharedBlocksAreNotTaken) {
  const Tokens blocks = Store({1, 2});
  Release(blocks);
  pool_.Share(blocks[0]);
  while (pool_.free_blocks() > 0) EXPECT_NE(pool_.Allocate(), blocks[0]);
  EXPECT_EQ(Match({1, 2}), blocks);
}

TEST_F(PrefixCacheTest, WhatFollowedALostBlockIsFoundAgainBehindItsSuccessor) {
  const Tokens blocks = Store({1, 2, 3, 4});
  pool_.Release(blocks[0]);  // only the start is free
  Tokens others;
  while (pool_.free_blocks() > 0) others.push_back(pool_.Allocate());
  EXPECT_EQ(Match({1, 2, 3, 4}), Tokens());
  pool_.Release(others[0]);
  const Tokens again = Store({1, 2});
  EXPECT_EQ(Match({1, 2, 3, 4}), Tokens({again[0], blocks[1]}));
}

TEST_F(PrefixCacheTest, EqualBlocksAreKeptOnce) {
  const Tokens first = Store({1, 2});
  const Tokens second = Store({1, 2, 3, 4});
  EXPECT_EQ(Match({1, 2, 3, 4}), Tokens({first[0], second[1]}));
  EXPECT_FALSE(pool_.kept(second[0]));
}

}  // namespace
}  // namespace winnow

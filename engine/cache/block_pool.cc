#include "engine/cache/block_pool.h"

#include <numeric>

#include "engine/check.h"

namespace winnow {

BlockPool::BlockPool(int blocks, int block_tokens)
    : block_tokens_(block_tokens), owners_(static_cast<size_t>(blocks), 0), free_(owners_.size()) {
  WINNOW_CHECK(block_tokens >= 1);
  std::iota(free_.rbegin(), free_.rend(), 0);  // block 0 is taken first
}

int32_t BlockPool::Allocate() {
  WINNOW_CHECK(!free_.empty());
  const int32_t block = free_.back();
  free_.pop_back();
  WINNOW_CHECK(owners_[static_cast<size_t>(block)] == 0);
  owners_[static_cast<size_t>(block)] = 1;
  return block;
}

void BlockPool::Share(int32_t block) {
  WINNOW_CHECK(block >= 0 && block < total_blocks() && owners(block) > 0);
  ++owners_[static_cast<size_t>(block)];
}

void BlockPool::Release(int32_t block) {
  WINNOW_CHECK(block >= 0 && block < total_blocks() && owners(block) > 0);
  if (--owners_[static_cast<size_t>(block)] == 0) free_.push_back(block);
}

}  // namespace winnow

#include "engine/cache/block_pool.h"

#include <numeric>

#include "engine/base/check.h"

namespace winnow {

BlockPool::BlockPool(int blocks, int block_tokens)
    : block_tokens_(block_tokens), blocks_(static_cast<size_t>(blocks)), free_(blocks_.size()) {
  WINNOW_CHECK(block_tokens >= 1);
  std::iota(free_.rbegin(), free_.rend(), 0);  // block 0 is taken first
}

int32_t BlockPool::Allocate() {
  WINNOW_CHECK(free_blocks() > 0);
  int32_t id;
  if (!free_.empty()) {
    id = free_.back();
    free_.pop_back();
  } else {
    id = kept_.front();
    kept_.pop_front();
    blocks_[static_cast<size_t>(id)].kept = false;
    if (on_evicted_) on_evicted_(id);
  }
  Block& block = blocks_[static_cast<size_t>(id)];
  WINNOW_CHECK(block.owners == 0 && !block.kept);
  block.owners = 1;
  return id;
}

void BlockPool::Share(int32_t id) {
  WINNOW_CHECK(id >= 0 && id < total_blocks());
  Block& block = blocks_[static_cast<size_t>(id)];
  WINNOW_CHECK(block.owners > 0 || block.kept);
  if (block.owners++ == 0) kept_.erase(block.place);
}

void BlockPool::Release(int32_t id) {
  WINNOW_CHECK(id >= 0 && id < total_blocks());
  Block& block = blocks_[static_cast<size_t>(id)];
  WINNOW_CHECK(block.owners > 0);
  if (--block.owners > 0) return;
  if (block.kept) {
    block.place = kept_.insert(kept_.end(), id);
  } else {
    free_.push_back(id);
  }
}

void BlockPool::Keep(int32_t id) {
  WINNOW_CHECK(id >= 0 && id < total_blocks() && owners(id) > 0);
  blocks_[static_cast<size_t>(id)].kept = true;
}

}  // namespace winnow

#include "engine/cache/kv_windows.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "engine/base/check.h"

namespace winnow {

KvWindows::KvWindows(std::vector<int> windows, int step_rows, int block_tokens)
    : windows_(std::move(windows)), step_rows_(step_rows), block_tokens_(block_tokens) {
  WINNOW_CHECK(!windows_.empty() && step_rows >= 1 && block_tokens >= 1);
}

int KvWindows::FirstBlock(int group, int computed) const {
  return has_window(group) ? std::max(0, computed - Window(group) + 1) / block_tokens_ : 0;
}

int KvWindows::EndBlock(int group, int computed, int tokens) const {
  const int end = (tokens + block_tokens_ - 1) / block_tokens_;
  if (!has_window(group)) return end;
  // However the window lies across blocks: so many at all times, as those behind it come back.
  const int64_t span = int64_t{Window(group)} + step_rows_ + block_tokens_ - 2;
  const int64_t most = (span + block_tokens_ - 1) / block_tokens_;
  return static_cast<int>(std::min<int64_t>(end, FirstBlock(group, computed) + most));
}

}  // namespace winnow

#pragma once

#include <cstddef>
#include <vector>

namespace winnow {

/// Names no block: where a block of a table has been given back, or is not known.
inline constexpr int kNoBlock = -1;

/// What the layers of a model keep of a sequence. Layers that keep the same, and as many of them as
/// make a block of the same size, form a group, which has blocks of its own: those of all
/// positions, or of those that its windows still reach and the rows of a step need.
class KvWindows {
 public:
  /// `windows` [groups]: positions that a row of the group's layers sees, up to and including its
  /// own; 0: all. `step_rows` is the most that a step computes of one sequence.
  KvWindows(std::vector<int> windows, int step_rows, int block_tokens);

  int groups() const { return static_cast<int>(windows_.size()); }
  bool has_window(int group) const { return Window(group) > 0; }

  /// The first block that rows at positions from `computed` on see.
  int FirstBlock(int group, int computed) const;

  /// Behind the last block of `tokens` tokens, of which `computed` have been computed: of a group
  /// with a window, of so many tokens that the next step finds room.
  int EndBlock(int group, int computed, int tokens) const;

 private:
  int Window(int group) const { return windows_[static_cast<size_t>(group)]; }

  std::vector<int> windows_;
  int step_rows_;
  int block_tokens_;
};

}  // namespace winnow

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace winnow {

/// A stretch of a text that is one unit: the bytes [begin, end).
struct Piece {
  size_t begin;
  size_t end;
  int32_t token;  ///< -1 if it is none yet

  bool operator==(const Piece&) const = default;
};

/// What two neighbouring pieces become. Merges of lower rank come first, of equal ones the
/// leftmost.
struct PairMerge {
  double rank;
  int32_t token;
};

/// Byte pair encoding: neighbouring pieces of a text are merged, always the two whose merge comes
/// first, until no two neighbours have one.
///
/// A long text is merged window by window, with the same result, in time that grows with its length
/// and memory that does not, unless merges reach further than a window. A division of a text is
/// what merging makes of it if, and only if, merging makes of every two neighbours, taken alone,
/// just these two: pieces merge within themselves in the same order whatever stands beside them, up
/// to the first merge across an edge, which the two alone would have done, too. So what was made of
/// the text before an edge goes with what is made of the text behind it, if the pieces on both
/// sides of the edge have been neighbours in one window: each window begins with a piece from
/// within the one before, and must have made the same piece of its beginning. Where it has not,
/// what follows reaches back further than a window, and the text is merged anew with larger ones.
///
/// Keeps memory from text to text; not for several threads at a time.
class PairMerger {
 public:
  /// Pieces of a text as split at first that are merged at a time. Few enough for a processor's
  /// cache, many beside the longest token.
  static constexpr size_t kWindowPieces = 4096;

  explicit PairMerger(size_t window_pieces = kWindowPieces) : window_pieces_(window_pieces) {}

  /// Merges a text that `rules` know:
  ///   bool Next(size_t& position, Piece& piece)   splits off the piece that the text has at
  ///                                               `position`, or false at its end
  ///   std::optional<PairMerge> Join(const Piece& left, const Piece& right)
  ///   void Accept(const Piece& piece)             takes the result, from left to right
  ///   void Restart()                              forgets what it took
  ///   bool Cancelled()                            asked once a window; true ends it all
  template <typename Rules>
  void Merge(Rules& rules) {
    for (size_t window = window_pieces_; !MergeWindows(window, rules); window *= kGrowth) {
      rules.Restart();
    }
  }

 private:
  static constexpr size_t kGrowth = 8;

  /// A piece in a doubly linked list of indices; -1 is none. Empty once merged into its left
  /// neighbour.
  struct Symbol {
    Piece piece;
    int32_t previous;
    int32_t next;
  };
  /// Two neighbours that might be merged. Stale if they have changed since.
  struct Candidate {
    double rank;
    size_t end;  ///< of both together
    int32_t left;
    int32_t token;  ///< of both together

    /// Order of the heap: the lowest rank, then the leftmost, on top.
    bool operator<(const Candidate& other) const {
      return std::pair(rank, left) > std::pair(other.rank, other.left);
    }
  };

  /// False when windows must be larger.
  template <typename Rules>
  bool MergeWindows(size_t window, Rules& rules) {
    size_t position = 0;
    std::optional<Piece> expected;  // at `position`
    while (!rules.Cancelled()) {
      const bool at_end = !Load(window, position, rules);
      if (symbols_.empty()) return true;
      MergeLoaded(rules);
      if (expected && symbols_.front().piece != *expected) return false;
      // Of pieces near the end nothing is known but in the light of what follows.
      const size_t certain = at_end ? symbols_.size() : symbols_.size() * 7 / 8;
      int32_t i = 0;
      for (; i >= 0 && static_cast<size_t>(i) < certain; i = symbols_[i].next) {
        rules.Accept(symbols_[i].piece);
      }
      if (at_end) return true;
      if (i <= 0) return false;
      expected = symbols_[i].piece;
      position = expected->begin;
    }
    return true;
  }

  /// Splits at most `window` pieces off the text at `position`. False when that is the rest of it.
  template <typename Rules>
  bool Load(size_t window, size_t position, Rules& rules) {
    symbols_.clear();
    Piece piece;
    while (symbols_.size() < window) {
      if (!rules.Next(position, piece)) {
        if (!symbols_.empty()) symbols_.back().next = -1;
        return false;
      }
      const auto index = static_cast<int32_t>(symbols_.size());
      symbols_.push_back({piece, index - 1, index + 1});
    }
    symbols_.back().next = -1;
    return true;
  }

  template <typename Rules>
  void MergeLoaded(Rules& rules) {
    candidates_.clear();
    for (size_t i = 0; i + 1 < symbols_.size(); ++i) AddCandidate(static_cast<int32_t>(i), rules);
    std::make_heap(candidates_.begin(), candidates_.end());
    while (!candidates_.empty()) {
      std::pop_heap(candidates_.begin(), candidates_.end());
      const Candidate merge = candidates_.back();
      candidates_.pop_back();
      Symbol& left = symbols_[merge.left];
      if (left.piece.begin == left.piece.end || left.next < 0) continue;
      Symbol& right = symbols_[left.next];
      if (right.piece.end != merge.end) continue;
      left.piece = {left.piece.begin, merge.end, merge.token};
      right.piece.begin = right.piece.end;
      left.next = right.next;
      if (left.next >= 0) {
        symbols_[left.next].previous = merge.left;
        if (AddCandidate(merge.left, rules)) std::push_heap(candidates_.begin(), candidates_.end());
      }
      if (left.previous >= 0 && AddCandidate(left.previous, rules)) {
        std::push_heap(candidates_.begin(), candidates_.end());
      }
    }
  }

  /// Appends the merge of a symbol and the one behind it, if they have one.
  template <typename Rules>
  bool AddCandidate(int32_t index, Rules& rules) {
    const Piece& left = symbols_[index].piece;
    const Piece& right = symbols_[symbols_[index].next].piece;
    const std::optional<PairMerge> merge = rules.Join(left, right);
    if (!merge) return false;
    candidates_.push_back({merge->rank, right.end, index, merge->token});
    return true;
  }

  const size_t window_pieces_;
  std::vector<Symbol> symbols_;
  std::vector<Candidate> candidates_;  ///< a heap
};

}  // namespace winnow

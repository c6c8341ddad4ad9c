#pragma once

#include <cstdint>
#include <span>

#include "kernels/selection.h"

namespace winnow {

class Sequence;

/// What a step computes of one sequence: consecutive rows, which select alike. The token chosen
/// last is a span of one row, a piece of a prompt one of many; tokens that were guessed follow the
/// token chosen last, and each row then tells whether the next guess was right.
struct Span {
  Sequence* sequence = nullptr;
  int begin = 0;                    ///< position of the first row
  std::span<const int32_t> tokens;  ///< [rows], valid until Accept or SetDrafts
  Selection selection;              ///< of every row
  int first_logit = 0;              ///< rows from this one on have a token chosen; rows(): none has
  bool decode = false;              ///< begins with the token chosen last, is no piece of the past

  int rows() const { return static_cast<int>(tokens.size()); }
  int end() const { return begin + rows(); }  ///< position behind the last row
  int logit_rows() const { return rows() - first_logit; }
};

}  // namespace winnow

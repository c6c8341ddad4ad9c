#pragma once

#include "engine/request/request.h"

namespace winnow {

/// How many tokens continuations get: those that may end by themselves get a share of the tokens
/// that they may have at most, the average share of those that have ended, of which each counts for
/// 1 % less with each later one.
class AnswerLengths {
 public:
  /// Takes note of a continuation that has ended with so many tokens of at most `limit`, and not
  /// because its request was ended early.
  void NoteEnd(const Request& request, int tokens, int limit);

  /// Tokens that a continuation of the request probably gets, of at most `limit`: all of them
  /// while nothing is known.
  double Expected(const Request& request, int limit) const;

  /// The same, but the less the fewer have ended: one while nothing is known.
  double AtLeast(const Request& request, int limit) const;

 private:
  double ends_ = 0;
  double shares_ = 0;  ///< of the limit, summed over ends_
};

}  // namespace winnow

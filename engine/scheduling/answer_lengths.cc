#include "engine/scheduling/answer_lengths.h"

#include <algorithm>
#include <cmath>

namespace winnow {
namespace {

/// What an end still counts after the next one.
constexpr double kMemory = 0.99;
/// What each end leaves of the doubt whether continuations end as those did.
constexpr double kDoubt = 0.5;

}  // namespace

void AnswerLengths::NoteEnd(const Request& request, int tokens, int limit) {
  if (request.ignore_eos) return;  // it had no choice
  ends_ = ends_ * kMemory + 1;
  shares_ = shares_ * kMemory + static_cast<double>(tokens) / limit;
}

double AnswerLengths::Expected(const Request& request, int limit) const {
  const double share = request.ignore_eos || ends_ == 0 ? 1 : shares_ / ends_;
  return std::max(1.0, share * limit);
}

double AnswerLengths::AtLeast(const Request& request, int limit) const {
  const double trust = request.ignore_eos ? 1 : 1 - std::pow(kDoubt, ends_);
  return std::max(1.0, trust * Expected(request, limit));
}

}  // namespace winnow

#include "engine/scheduling/cost_fit.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace winnow {
namespace {

/// What a step still counts after the next one of its kind, and of the other kind while there are
/// more than kKept.
constexpr double kMemory = 0.99;
constexpr double kKept = 10;
/// As if so many steps had been off by so much already.
constexpr double kFirstError = 0.3;
constexpr double kFirstErrors = 3;
/// What each second of steps leaves of the doubt whether they have been like those to come.
constexpr double kDoubt = 0.5;

using Used = std::array<bool, Work::kTerms>;
using Matrix = std::array<std::array<double, Work::kTerms>, Work::kTerms>;

// Of the rows and columns in `used`, by Gauss and Jordan; the others become 0. REQUIRES: positive
// definite.
Matrix Inverse(Matrix a, const Used& used) {
  Matrix inverse = {};
  for (size_t pivot = 0; pivot < a.size(); ++pivot) {
    if (used[pivot]) inverse[pivot][pivot] = 1;
  }
  for (size_t pivot = 0; pivot < a.size(); ++pivot) {
    if (!used[pivot]) continue;
    const double scale = 1 / a[pivot][pivot];
    for (size_t j = 0; j < a.size(); ++j) {
      a[pivot][j] *= scale;
      inverse[pivot][j] *= scale;
    }
    for (size_t i = 0; i < a.size(); ++i) {
      if (i == pivot || !used[i]) continue;
      const double factor = a[i][pivot];
      for (size_t j = 0; j < a.size(); ++j) {
        a[i][j] -= factor * a[pivot][j];
        inverse[i][j] -= factor * inverse[pivot][j];
      }
    }
  }
  return inverse;
}

}  // namespace

void CostFit::Sums::Fade() {
  count *= kMemory;
  for (size_t i = 0; i < kTerms; ++i) {
    x[i] *= kMemory;
    for (double& sum : xx[i]) sum *= kMemory;
  }
}

void CostFit::Sums::Add(const Vector& step) {
  count += 1;
  for (size_t i = 0; i < kTerms; ++i) {
    x[i] += step[i];
    for (size_t j = 0; j < kTerms; ++j) xx[i][j] += step[i] * step[j];
  }
}

CostFit::Sums CostFit::Sums::operator+(const Sums& other) const {
  Sums sums = *this;
  sums.count += other.count;
  for (size_t i = 0; i < kTerms; ++i) {
    sums.x[i] += other.x[i];
    for (size_t j = 0; j < kTerms; ++j) sums.xx[i][j] += other.xx[i][j];
  }
  return sums;
}

void CostFit::Add(const Work& step, double seconds) {
  if (seconds <= 0) return;
  seconds_ += seconds;
  const auto lesser = [](double least, double now) {
    return least == 0 ? now : std::min(least / kMemory, now);
  };
  least_seconds_ = lesser(least_seconds_, seconds);
  least_row_seconds_ = lesser(least_row_seconds_, seconds / step.rows());
  Sums& own = step.prompt_tokens > 0 ? prompts_ : decodes_;
  Sums& other = step.prompt_tokens > 0 ? decodes_ : prompts_;
  own.Fade();
  if (other.count > kKept) other.Fade();
  own.Add((step * (1 / seconds)).terms());
  Solve();
}

double CostFit::trust() const { return 1 - std::pow(kDoubt, seconds_); }

Estimate CostFit::SecondsOf(const Work& work) const {
  const Vector terms = work.terms();
  double seconds = 0;
  double variance = 0;
  for (size_t i = 0; i < kTerms; ++i) {
    if (terms[i] == 0) continue;
    seconds += terms[i] * costs_[i];
    for (size_t j = 0; j < kTerms; ++j) variance += terms[i] * terms[j] * covariance_[i][j];
  }
  const double least = std::min(work.steps * least_seconds_, work.rows() * least_row_seconds_);
  return {.seconds = std::max(least, seconds),
          .at_least = trust() * std::max(least, seconds - std::sqrt(std::max(0.0, variance)))};
}

// A ridge regression whose prior is that a term costs nothing, give or take all the time of the
// steps that have it.
void CostFit::Solve() {
  const Sums sums = decodes_ + prompts_;
  double squared_errors = sums.count;  // of what the costs so far make of the steps
  for (size_t i = 0; i < kTerms; ++i) {
    squared_errors -= 2 * costs_[i] * sums.x[i];
    for (size_t j = 0; j < kTerms; ++j) squared_errors += costs_[i] * sums.xx[i][j] * costs_[j];
  }
  const double variance =
      (std::max(0.0, squared_errors) + kFirstErrors * kFirstError * kFirstError) /
      (sums.count + kFirstErrors);

  Used used = {};
  Vector scale = {};  // makes the terms weigh the same
  for (size_t i = 0; i < kTerms; ++i) {
    used[i] = sums.x[i] > 0;
    if (used[i]) scale[i] = 1 / std::sqrt(sums.xx[i][i]);
  }
  Matrix matrix = {};
  for (size_t i = 0; i < kTerms; ++i) {
    for (size_t j = 0; j < kTerms; ++j) matrix[i][j] = sums.xx[i][j] * scale[i] * scale[j];
    if (used[i]) matrix[i][i] += variance * sums.xx[i][i] / (sums.x[i] * sums.x[i]);
  }
  covariance_ = Inverse(matrix, used);
  for (size_t i = 0; i < kTerms; ++i) {
    for (size_t j = 0; j < kTerms; ++j) covariance_[i][j] *= variance * scale[i] * scale[j];
    if (!used[i]) covariance_[i][i] = std::numeric_limits<double>::infinity();
  }

  // Terms that would cost less than nothing are left out, the worst one first.
  while (true) {
    const Matrix inverse = Inverse(matrix, used);
    Vector scaled = {};  // costs
    for (size_t i = 0; i < kTerms; ++i) {
      for (size_t j = 0; j < kTerms; ++j) scaled[i] += inverse[i][j] * sums.x[j] * scale[j];
      costs_[i] = scaled[i] * scale[i];
    }
    const auto worst = std::ranges::min_element(scaled);
    if (*worst >= 0) return;
    used[static_cast<size_t>(worst - scaled.begin())] = false;
  }
}

}  // namespace winnow

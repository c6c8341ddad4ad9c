#include "engine/calibration/budget_spread.h"

#include <algorithm>
#include <cstddef>
#include <numeric>

namespace winnow {
namespace {

// A piece of one head's convex hull: more budget, less error.
struct Step {
  size_t head;
  double fraction;  // how much more
  double saved;     // error saved per unit of fraction

  static double Slope(std::span<const double> x, std::span<const double> y, size_t i, size_t j) {
    return (y[j] - y[i]) / (x[j] - x[i]);
  }
};

// Indices of the points of the lower convex hull, from the first point on.
std::vector<size_t> LowerHull(std::span<const double> x, std::span<const double> y) {
  std::vector<size_t> hull;
  for (size_t i = 0; i < x.size(); ++i) {
    while (hull.size() >= 2 && Step::Slope(x, y, hull[hull.size() - 2], i) <=
                                   Step::Slope(x, y, hull[hull.size() - 2], hull.back())) {
      hull.pop_back();
    }
    hull.push_back(i);
  }
  return hull;
}

}  // namespace

std::vector<double> SpreadBudget(const std::vector<std::vector<double>>& errors,
                                 std::span<const double> fractions, double mean) {
  if (mean <= fractions.front()) return std::vector<double>(errors.size(), mean);
  std::vector<Step> steps;
  for (size_t head = 0; head < errors.size(); ++head) {
    const std::vector<size_t> hull = LowerHull(fractions, errors[head]);
    for (size_t i = 1; i < hull.size(); ++i) {
      const double slope = Step::Slope(fractions, errors[head], hull[i - 1], hull[i]);
      if (slope >= 0) break;
      steps.push_back({head, fractions[hull[i]] - fractions[hull[i - 1]], -slope});
    }
  }
  // Along a hull the savings decline, so that a head's steps stay in their order.
  std::stable_sort(steps.begin(), steps.end(),
                   [](const Step& a, const Step& b) { return a.saved > b.saved; });
  std::vector<double> shares(errors.size(), fractions.front());
  double left = (mean - fractions.front()) * static_cast<double>(errors.size());
  for (const Step& step : steps) {
    const double taken = std::min(left, step.fraction);
    shares[step.head] += taken;
    left -= taken;
  }
  const double total = std::accumulate(shares.begin(), shares.end(), 0.0);
  for (double& share : shares) share *= mean * static_cast<double>(shares.size()) / total;
  return shares;
}

double ErrorAt(std::span<const double> errors, std::span<const double> fractions, double fraction) {
  const auto above = std::lower_bound(fractions.begin(), fractions.end(), fraction);
  if (above == fractions.begin()) return errors.front();
  if (above == fractions.end()) return errors.back();
  const size_t i = above - fractions.begin();
  const double way = (fraction - fractions[i - 1]) / (fractions[i] - fractions[i - 1]);
  return errors[i - 1] + way * (errors[i] - errors[i - 1]);
}

}  // namespace winnow

#pragma once

#include <array>
#include <cstddef>

#include "engine/scheduling/work.h"

namespace winnow {

/// How long work takes.
struct Estimate {
  double seconds = 0;   ///< as far as can be told
  double at_least = 0;  ///< in nearly any case; 0 if nothing is known
};

/// Learns from the steps computed what work takes: a step's time is a sum over its Work's terms,
/// each with a cost that is not negative. The costs are those of the least squares of relative
/// errors. Steps that only decode and steps with prompts are remembered apart, a hundred or so of
/// each, so that what prompts cost is not forgotten while nobody sends one.
///
/// Steps that were all alike do not tell which term costs what. The fit then gives each an equal
/// share of the time; how wrong that may be is in `at_least`, which lies a standard deviation
/// lower, where a term that no step has had may cost anything. Work never takes less, though, than
/// the quickest step did for each of its steps, or for each of its rows if that is less. And the
/// first second of all says little: memory is touched and code loaded for the first time.
class CostFit {
 public:
  /// Takes note of a step that was computed. REQUIRES: step.steps is 1.
  void Add(const Work& step, double seconds);

  Estimate SecondsOf(const Work& work) const;

  /// How much what was learnt can be trusted, by how long steps took so far: from 0 to 1.
  double trust() const;

 private:
  static constexpr size_t kTerms = Work::kTerms;
  using Vector = std::array<double, kTerms>;
  using Matrix = std::array<Vector, kTerms>;

  /// Sums over steps of x, which is a step's terms divided by its seconds: costs * x should be 1.
  struct Sums {
    double count = 0;
    Vector x = {};
    Matrix xx = {};

    void Fade();
    void Add(const Vector& step);
    Sums operator+(const Sums& other) const;
  };

  void Solve();

  Sums decodes_;
  Sums prompts_;
  double seconds_ = 0;            ///< of all steps
  double least_seconds_ = 0;      ///< of a step, of late
  double least_row_seconds_ = 0;  ///< of a step, divided by its rows
  Vector costs_ = {};
  Matrix covariance_ = {};  ///< of the costs; infinite on the diagonal for what was never seen
};

}  // namespace winnow

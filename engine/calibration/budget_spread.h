#pragma once

#include <span>
#include <vector>

namespace winnow {

/// Spreads a budget over KV heads so that the sum of their errors is least.
///
/// `errors` [heads][fractions] is each head's error when it attends to that share of the context,
/// `fractions` ascends. Returns each head's share, in [fractions.front(), fractions.back()], with
/// mean `mean`. Each head's errors are taken as the lower convex hull of its points, along which
/// the share goes, step by step, to the head that saves most error per token; steps may end between
/// fractions. That is the optimum for the hulls: no other spread of the same mean errs less.
///
/// When the mean lies below the smallest fraction nothing is known about so small shares, and all
/// get the mean. What no head can use to reduce its error is shared in proportion, which may take
/// shares beyond the largest fraction.
std::vector<double> SpreadBudget(const std::vector<std::vector<double>>& errors,
                                 std::span<const double> fractions, double mean);

/// A head's error at `fraction`, linear between the nearest of `fractions`; beyond the ends, that
/// of the end.
double ErrorAt(std::span<const double> errors, std::span<const double> fractions, double fraction);

}  // namespace winnow

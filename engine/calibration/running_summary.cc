#include "engine/calibration/running_summary.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <cassert>

#include "kernels/summary.h"

namespace winnow {

RunningSummary::RunningSummary(const RowMatrix& codes, const RowMatrix& keys,
                               const RowMatrix& values, int sinks)
    : codes_(codes),
      keys_(keys),
      values_(values),
      sinks_(sinks),
      code_sum_(Eigen::RowVectorXd::Zero(codes.cols())),
      key_sum_(Eigen::RowVectorXd::Zero(keys.cols())),
      value_sum_(Eigen::RowVectorXd::Zero(values.cols())),
      code_moment_(Eigen::MatrixXd::Zero(codes.cols(), codes.cols())),
      value_moment_(Eigen::MatrixXd::Zero(codes.cols(), values.cols())) {}

const RunningSummary::Estimate& RunningSummary::At(int position) {
  assert(HasSummary(position, sinks_) && SummarisedTokens(position) >= tokens_);
  if (tokens_ < SummarisedTokens(position)) {
    while (tokens_ < SummarisedTokens(position)) AddPiece();
    Solve();
  }
  return estimate_;
}

void RunningSummary::AddPiece() {
  const int end = tokens_ + kSummaryPiece;
  const int begin = std::clamp(sinks_, tokens_, end);
  const Eigen::MatrixXd codes = codes_.middleRows(begin, end - begin).cast<double>();
  const Eigen::MatrixXd values = values_.middleRows(begin, end - begin).cast<double>();
  code_sum_ += codes.colwise().sum();
  value_sum_ += values.colwise().sum();
  key_sum_ += keys_.middleRows(begin, end - begin).cast<double>().colwise().sum();
  code_moment_ += codes.transpose() * codes;
  value_moment_ += codes.transpose() * values;
  tokens_ = end;
}

void RunningSummary::Solve() {
  const double count = tokens_ - sinks_;
  const Eigen::RowVectorXd code = code_sum_ / count;
  const Eigen::RowVectorXd value = value_sum_ / count;
  estimate_.mean_code = code.cast<float>();
  estimate_.mean_key = (key_sum_ / count).cast<float>();
  estimate_.mean_value = value.cast<float>();
  Eigen::MatrixXd covariance = code_moment_ / count - code.transpose() * code;
  const double trace = covariance.trace();
  if (!(trace > 0)) {  // the labels are all the same and say nothing
    estimate_.slopes.setZero(codes_.cols(), values_.cols());
    return;
  }
  covariance.diagonal().array() += kSummaryRidge * trace / static_cast<double>(codes_.cols());
  estimate_.slopes =
      covariance.llt().solve(value_moment_ / count - code.transpose() * value).cast<float>();
}

}  // namespace winnow

#pragma once

#include <chrono>
#include <cstdio>
#include <string>

namespace winnow {

/// A progress bar on stderr, such as
///
///     calibrating [###########·········]  55 %, 48 s left
///
/// redrawn at most ten times a second and erased on destruction. Nothing is printed when stderr is
/// no terminal.
class ProgressBar {
 public:
  explicit ProgressBar(std::string label);
  /// Draws to `out` whatever it is when `enabled`.
  ProgressBar(std::string label, std::FILE* out, bool enabled);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// `done` from 0 to 1.
  void Update(double done);

 private:
  using Clock = std::chrono::steady_clock;

  std::string label_;
  std::FILE* out_;
  bool enabled_;
  bool drawn_ = false;
  Clock::time_point start_;
  Clock::time_point last_draw_;
};

/// The line that a bar shows: `done` from 0 to 1 after `seconds`.
std::string ProgressLine(const std::string& label, double done, double seconds);

}  // namespace winnow

#include "server/commands/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_format.h"

namespace winnow {
namespace {

constexpr int kBarColumns = 30;
constexpr double kRedrawSeconds = 0.1;
// Before that, the time left is a guess that would jump about.
constexpr double kSecondsBeforeEstimate = 2;

}  // namespace

std::string ProgressLine(const std::string& label, double done, double seconds) {
  done = std::clamp(done, 0.0, 1.0);
  const int filled = static_cast<int>(done * kBarColumns);
  std::string line = label + " [" + std::string(filled, '#');
  for (int i = filled; i < kBarColumns; ++i) line += "·";
  line += absl::StrFormat("] %3d %%", static_cast<int>(done * 100));
  if (done > 0 && seconds >= kSecondsBeforeEstimate) {
    const int left = static_cast<int>(std::ceil(seconds / done * (1 - done)));
    line += left < 60 ? absl::StrFormat(", %d s left", left)
                      : absl::StrFormat(", %d min %02d s left", left / 60, left % 60);
  }
  return line;
}

ProgressBar::ProgressBar(std::string label)
    : ProgressBar(std::move(label), stderr, isatty(STDERR_FILENO) != 0) {}

ProgressBar::ProgressBar(std::string label, std::FILE* out, bool enabled)
    : label_(std::move(label)), out_(out), enabled_(enabled), start_(Clock::now()) {}

ProgressBar::~ProgressBar() {
  if (!drawn_) return;
  std::fputs("\r\033[K", out_);
  std::fflush(out_);
}

void ProgressBar::Update(double done) {
  if (!enabled_) return;
  const Clock::time_point now = Clock::now();
  const auto seconds = [&](Clock::time_point since) {
    return std::chrono::duration<double>(now - since).count();
  };
  if (drawn_ && seconds(last_draw_) < kRedrawSeconds) return;
  std::fprintf(out_, "\r%s\033[K", ProgressLine(label_, done, seconds(start_)).c_str());
  std::fflush(out_);
  drawn_ = true;
  last_draw_ = now;
}

}  // namespace winnow

#include "server/commands/progress.h"

#include <cstdio>
#include <cstdlib>
#include <string>

#include "gtest/gtest.h"

namespace winnow {
namespace {

std::string Drawn(bool enabled) {
  char* text = nullptr;
  size_t bytes = 0;
  std::FILE* out = open_memstream(&text, &bytes);
  {
    ProgressBar bar("working", out, enabled);
    bar.Update(0.5);
  }
  std::fclose(out);
  std::string drawn(text, bytes);
  std::free(text);
  return drawn;
}

TEST(ProgressTest, TheLineShowsShareAndTimeLeft) {
  EXPECT_EQ(ProgressLine("x", 0.5, 0), "x [###############···············]  50 %");
  EXPECT_EQ(ProgressLine("x", 0.1, 5), "x [###···························]  10 %, 45 s left");
  EXPECT_EQ(ProgressLine("x", 0.1, 50),
            "x [###···························]  10 %, 7 min 30 s left");
}

TEST(ProgressTest, SharesOutsideOfTheRangeAreClamped) {
  EXPECT_EQ(ProgressLine("x", -1, 0), ProgressLine("x", 0, 0));
  EXPECT_EQ(ProgressLine("x", 7, 0), ProgressLine("x", 1, 0));
}

TEST(ProgressTest, TheBarIsErasedAtTheEnd) {
  const std::string drawn = Drawn(true);
  EXPECT_NE(drawn.find("working ["), std::string::npos);
  EXPECT_EQ(drawn.substr(drawn.size() - 4), "\r\033[K");
}

TEST(ProgressTest, NothingIsPrintedWithoutATerminal) { EXPECT_EQ(Drawn(false), ""); }

}  // namespace
}  // namespace winnow

#include "server/observability/log_thread.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "server/observability/log.h"
#include "tests/server/unread_pipe.h"

namespace winnow {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

TEST(LogThreadTest, WritesLinesInOrderAndWhatIsLeftAtTheEnd) {
  testing::internal::CaptureStderr();
  {
    const LogThread thread;
    for (int i = 0; i < 1000; ++i) Log(LogLevel::kInfo, "line", {{"number", i}});
  }
  Log(LogLevel::kInfo, "after");
  const std::vector<std::string> lines =
      absl::StrSplit(testing::internal::GetCapturedStderr(), '\n', absl::SkipEmpty());
  ASSERT_EQ(lines.size(), 1001u);
  for (int i = 0; i < 1000; ++i) {
    EXPECT_THAT(lines[static_cast<size_t>(i)], EndsWith("number=" + std::to_string(i)));
  }
  EXPECT_THAT(lines.back(), HasSubstr("event=after"));
}

TEST(LogThreadTest, NobodyWaitsForAPipeThatNobodyReadsAndWhatIsLostIsCounted) {
  constexpr int kLines = 100'000;  // more than pipe and buffer hold
  UnreadPipe pipe;
  const LogThread thread;
  for (int i = 0; i < kLines; ++i) Log(LogLevel::kInfo, "line", {{"number", i}});
  std::string text;
  int written = 0;
  int dropped = 0;
  while (written + dropped < kLines) {  // more than once, if the thread begins late
    text += pipe.ReadUntil("\n");
    while (text.find('\n') != std::string::npos) {
      const std::string line = text.substr(0, text.find('\n'));
      text.erase(0, line.size() + 1);
      const int number = std::stoi(line.substr(line.rfind('=') + 1));
      if (line.find("event=log_lines_dropped") != std::string::npos) {
        dropped += number;
      } else {
        ASSERT_EQ(number, written + dropped) << line;
        ++written;
      }
    }
  }
  EXPECT_EQ(written + dropped, kLines);
  EXPECT_GT(written, 1000);
  EXPECT_GT(dropped, 0);
  Log(LogLevel::kInfo, "later");
  EXPECT_THAT(pipe.ReadUntil("event=later"), HasSubstr("event=later"));
}

TEST(LogThreadTest, APipeThatNobodyReadsIsNotWaitedForAtTheEndEither) {
  UnreadPipe pipe;
  {
    const LogThread thread;
    Log(LogLevel::kInfo, "line");
    FlushLog(absl::Milliseconds(1));
  }
  EXPECT_THAT(pipe.ReadUntil("event=line"), HasSubstr("event=line"));
}

TEST(LogThreadTest, APipeWhoseReaderIsGoneEndsNothing) {
  UnreadPipe pipe;
  const LogThread thread;
  pipe.CloseReadEnd();
  for (int i = 0; i < 3; ++i) {
    Log(LogLevel::kInfo, "line");
    FlushLog(absl::Seconds(20));
  }
}

}  // namespace
}  // namespace winnow

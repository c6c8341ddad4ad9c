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
  const std::string text = pipe.ReadUntil("event=log_lines_dropped");
  std::vector<std::string> lines = absl::StrSplit(text, '\n', absl::SkipEmpty());
  ASSERT_GT(lines.size(), 1000u);
  const std::string note = lines.back();
  lines.pop_back();
  for (size_t i = 0; i < lines.size(); ++i) {
    ASSERT_THAT(lines[i], EndsWith("event=line number=" + std::to_string(i)));
  }
  EXPECT_THAT(note,
              EndsWith("event=log_lines_dropped lines=" + std::to_string(kLines - lines.size())));
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

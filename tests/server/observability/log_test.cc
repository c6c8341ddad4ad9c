#include "server/observability/log.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace winnow {
namespace {

TEST(Log, LogfmtQuotesOnlyWhatNeedsIt) {
  EXPECT_EQ(FormatLogLine(LogFormat::kLogfmt, "T", LogLevel::kInfo, "listening",
                          {{"address", "127.0.0.1:80"},
                           {"text", "two words \"quoted\"\n"},
                           {"empty", ""},
                           {"tokens", 12},
                           {"seconds", 0.25},
                           {"chat", true}}),
            "time=T level=info event=listening address=127.0.0.1:80 "
            "text=\"two words \\\"quoted\\\"\\n\" empty=\"\" tokens=12 seconds=0.25 chat=true\n");
}

TEST(Log, NothingInAValueControlsATerminalOrStartsALine) {
  // ESC, a C1 control (CSI) in UTF-8, DEL, a line separator, and a line that looks like another's.
  const std::string hostile =
      "a\x1b[31m\xC2\x9B"
      "31m\x7F\xE2\x80\xA8\ntime=T level=info";
  for (const LogFormat format : {LogFormat::kLogfmt, LogFormat::kJson}) {
    std::string line = FormatLogLine(format, "T", LogLevel::kInfo, "request", {{"model", hostile}});
    EXPECT_EQ(line.back(), '\n');
    line.pop_back();
    for (const char c : line) EXPECT_TRUE(c >= 0x20 && c < 0x7F) << line;
  }
  EXPECT_EQ(FormatLogLine(LogFormat::kLogfmt, "T", LogLevel::kInfo, "e", {{"k", "a\x7F"}}),
            "time=T level=info event=e k=\"a\\u007f\"\n");
}

TEST(Log, AFieldWithoutAValueIsLeftOut) {
  EXPECT_EQ(FormatLogLine(LogFormat::kLogfmt, "T", LogLevel::kInfo, "e",
                          {{"trace_id", std::optional<std::string>()},
                           {"span_id", std::optional<std::string>("s")}}),
            "time=T level=info event=e span_id=s\n");
}

TEST(Log, JsonLinesParseBackWhateverTheBytes) {
  const std::string line = FormatLogLine(
      LogFormat::kJson, "T", LogLevel::kError, "broken",
      {{"message", std::string("a\"b\\c\n\xff")}, {"id", uint64_t{7}}, {"ok", false}});
  const nlohmann::json json = nlohmann::json::parse(line);
  EXPECT_EQ(json["level"], "error");
  EXPECT_EQ(json["event"], "broken");
  EXPECT_EQ(json["message"], "a\"b\\c\n\xEF\xBF\xBD");
  EXPECT_EQ(json["id"], 7);
  EXPECT_EQ(json["ok"], false);
  EXPECT_EQ(line.find('\n'), line.size() - 1);
}

}  // namespace
}  // namespace winnow

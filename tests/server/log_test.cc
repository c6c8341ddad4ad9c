#include "server/log.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

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

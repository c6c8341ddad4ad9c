#include "server/observability/trace_context.h"

#include <gtest/gtest.h>

namespace winnow {
namespace {

const std::string kTrace = "0af7651916cd43dd8448eb211c80319c";
const std::string kSpan = "b7ad6b7169203331";

TEST(TraceContext, ReadsTheStandardsExample) {
  const auto trace = ParseTraceparent("00-" + kTrace + "-" + kSpan + "-01");
  ASSERT_TRUE(trace.has_value());
  EXPECT_EQ(trace->trace_id, kTrace);
  EXPECT_EQ(trace->span_id, kSpan);
}

TEST(TraceContext, TakesWhatLaterVersionsAppend) {
  EXPECT_TRUE(ParseTraceparent("01-" + kTrace + "-" + kSpan + "-01"));
  EXPECT_TRUE(ParseTraceparent("cc-" + kTrace + "-" + kSpan + "-01-what-the-future-holds"));
  EXPECT_FALSE(ParseTraceparent("cc-" + kTrace + "-" + kSpan + "-01.what"));
}

TEST(TraceContext, AnythingElseIsNone) {
  const std::string zeros(32, '0');
  for (const std::string& header : {
           std::string(),
           "00-" + kTrace + "-" + kSpan,           // no flags
           "00-" + kTrace + "-" + kSpan + "-0",    // half of them
           "00-" + kTrace + "-" + kSpan + "-01-",  // version 00 ends there
           "00-" + kTrace + "-" + kSpan + "-01-more",
           "ff-" + kTrace + "-" + kSpan + "-01",  // never a version
           "0x-" + kTrace + "-" + kSpan + "-01",
           "00-" + zeros + "-" + kSpan + "-01",                     // no trace
           "00-" + kTrace + "-" + zeros.substr(16) + "-01",         // no span
           "00-0AF7651916CD43DD8448EB211C80319C-" + kSpan + "-01",  // upper case
           "00-" + kTrace + "-" + "b7ad6b716920333g" + "-01",
           "00_" + kTrace + "-" + kSpan + "-01",
           "00-" + kTrace + "_" + kSpan + "-01",
           "00-" + kTrace + "-" + kSpan + "_01",
           "00-" + kTrace + "-" + kSpan + "-zz",
           " 00-" + kTrace + "-" + kSpan + "-01",
           "00-" + kTrace.substr(1) + "-" + kSpan + "-001",
       }) {
    EXPECT_FALSE(ParseTraceparent(header)) << header;
  }
}

}  // namespace
}  // namespace winnow

#include "engine/sequence/stop_matcher.h"

#include <gtest/gtest.h>

#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace winnow {
namespace {

struct Stream {
  std::string emitted;
  std::optional<std::string> stop;
};

/// The definition, on the whole text at once: cut before the stop string that ends first, and of
/// those that end together the longest.
Stream BruteForce(std::string_view text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::optional<std::string> longest;
    for (const std::string& stop : stops) {
      if (stop.empty() || stop.size() > end) continue;
      if (text.substr(end - stop.size(), stop.size()) != stop) continue;
      if (!longest || stop.size() > longest->size()) longest = stop;
    }
    if (longest) return {std::string(text.substr(0, end - longest->size())), longest};
  }
  return {std::string(text), std::nullopt};
}

/// Whether some continuation of `text` makes an end of it part of a stop string.
bool MayStillMatch(std::string_view text, size_t begin, const std::vector<std::string>& stops) {
  for (const std::string& stop : stops) {
    if (stop.starts_with(text.substr(begin))) return true;
  }
  return false;
}

TEST(StopMatcherTest, HoldsBackWhatMayBeginAStopAndReleasesItOnceItCannot) {
  const std::vector<std::string> stops = {"END"};
  StopMatcher matcher(stops);
  EXPECT_EQ(matcher.Append("the E").text, "the ");
  EXPECT_EQ(matcher.Append("N").text, "");
  EXPECT_EQ(matcher.Append("E").text, "EN");
  const StopMatcher::Match match = matcher.Append("ND of it");
  EXPECT_EQ(match.text, "");
  EXPECT_EQ(match.stop, "END");
}

TEST(StopMatcherTest, FlushReturnsWhatWasHeldBack) {
  const std::vector<std::string> stops = {"abc"};
  StopMatcher matcher(stops);
  EXPECT_EQ(matcher.Append("xab").text, "x");
  EXPECT_EQ(matcher.Flush(), "ab");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherTest, WithoutStopsEverythingPasses) {
  const std::vector<std::string> stops = {""};
  StopMatcher matcher(stops);
  EXPECT_EQ(matcher.Append("anything").text, "anything");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherTest, OfStopsThatEndTogetherTheLongestIsCutOff) {
  const std::vector<std::string> stops = {"b", "ab"};
  StopMatcher matcher(stops);
  const StopMatcher::Match match = matcher.Append("xab");
  EXPECT_EQ(match.text, "x");
  EXPECT_EQ(match.stop, "ab");
}

TEST(StopMatcherTest, AgreesWithBruteForceHoweverTheTextIsCut) {
  for (unsigned seed = 0; seed < 20'000; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const auto word = [&](size_t longest) {
      std::string letters;
      for (size_t i = random() % (longest + 1); i > 0; --i) {
        letters += static_cast<char>('a' + random() % 2);  // two letters: many overlaps
      }
      return letters;
    };
    std::vector<std::string> stops(1 + random() % 3);
    for (std::string& stop : stops) stop = word(6);
    const std::string text = word(30);
    const Stream expected = BruteForce(text, stops);

    StopMatcher matcher(stops);
    Stream actual;
    size_t fed = 0;
    while (fed < text.size() && !actual.stop) {
      const size_t piece = random() % 4;
      const StopMatcher::Match match = matcher.Append(std::string_view(text).substr(fed, piece));
      fed = std::min(text.size(), fed + piece);
      actual.emitted += match.text;
      actual.stop = match.stop;
      ASSERT_TRUE(expected.emitted.starts_with(actual.emitted)) << "emitted part of a stop";
      if (!actual.stop && actual.emitted.size() < fed) {
        ASSERT_TRUE(
            MayStillMatch(std::string_view(text).substr(0, fed), actual.emitted.size(), stops))
            << "held back more than needed";
      }
    }
    if (!actual.stop) actual.emitted += matcher.Flush();
    ASSERT_EQ(actual.emitted, expected.emitted);
    ASSERT_EQ(actual.stop, expected.stop);
  }
}

}  // namespace
}  // namespace winnow

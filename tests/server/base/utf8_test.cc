#include "server/base/utf8.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

#include "tests/engine/text/utf8.h"

namespace winnow {
namespace {

TEST(Utf8Test, KnowsUtf8AsAnotherImplementationDoes) {
  std::mt19937 rng(1);
  int valid = 0;
  for (int i = 0; i < 200'000; ++i) {
    // Bytes that are hard to tell apart, often next to each other.
    constexpr unsigned char kBytes[] = {0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF,
                                        0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE,
                                        0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF};
    std::string text;
    for (uint32_t left = rng() % 6; left > 0; --left) {
      text.push_back(static_cast<char>(kBytes[rng() % sizeof(kBytes)]));
    }
    ASSERT_EQ(IsUtf8(text), IsValidUtf8(text)) << testing::PrintToString(text);
    ASSERT_TRUE(IsValidUtf8(ToUtf8(text)));
    ASSERT_TRUE(IsValidUtf8(text.substr(0, Utf8PrefixBytes(text))));
    valid += IsUtf8(text) ? 1 : 0;
  }
  EXPECT_GT(valid, 10'000);
  for (int i = 0; i < 1000; ++i) {
    const std::string text = RandomText(rng, 60);
    ASSERT_TRUE(IsUtf8(text));
    ASSERT_EQ(ToUtf8(text), text);
  }
}

TEST(Utf8Test, EveryStrayByteIsReplaced) {
  EXPECT_EQ(ToUtf8("caf\xE9"), "caf\uFFFD");
  EXPECT_EQ(ToUtf8("\xE9t\xE9 d\xC3\xA9j\xC3"),
            "\uFFFDt\uFFFD dé"
            "j\uFFFD");
  EXPECT_EQ(Utf8PrefixBytes("caf\xE9!"), 3u);
}

TEST(Utf8Test, AByteOrderMarkIsDroppedInFrontAlone) {
  EXPECT_EQ(WithoutByteOrderMark("\uFEFFtext"), "text");
  EXPECT_EQ(WithoutByteOrderMark("te\uFEFFxt"), "te\uFEFFxt");
  EXPECT_EQ(WithoutByteOrderMark("\xEF\xBB"), "\xEF\xBB");
  EXPECT_EQ(WithoutByteOrderMark(""), "");
}

}  // namespace
}  // namespace winnow

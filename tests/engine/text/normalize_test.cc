// Normalisation against ICU's other interface, in UTF-16, which gets no help with long runs.

#include "engine/text/normalize.h"

#include <unicode/normalizer2.h>
#include <unicode/unistr.h>

#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/text/utf8.h"

namespace winnow {
namespace {

std::string NfcByIcu(const std::string& text) {
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* nfc = icu::Normalizer2::getNFCInstance(error);
  const icu::UnicodeString normalized = nfc->normalize(icu::UnicodeString::fromUTF8(text), error);
  EXPECT_TRUE(U_SUCCESS(error));
  std::string result;
  return normalized.toUTF8String(result);
}

TEST(NormalizeNfcTest, LongRunsOfMarksAreNormalisedAsOthers) {
  // Marks of many classes, some of which are decomposed, and what they may follow.
  const std::vector<uint32_t> marks = {0x300, 0x301, 0x316, 0x327,  0x328,  0x334,   0x340,
                                       0x343, 0x344, 0x345, 0x5B0,  0x64B,  0xF71,   0xF72,
                                       0xF73, 0xF75, 0xF81, 0x302A, 0x3099, 0x1D165, 0x1D16E};
  const std::vector<uint32_t> starters = {'a', 'e', 0xE9, 0x1EA5, 0x3B1, 0x1100, 0x304B, 0xF40};
  std::mt19937 rng(1);
  int changed = 0;
  for (int i = 0; i < 400; ++i) {
    std::string text;
    for (int run = 0; run < 4; ++run) {
      for (auto n = rng() % 3; n > 0; --n) text += Utf8(starters[rng() % starters.size()]);
      for (auto n = rng() % 200; n > 0; --n) text += Utf8(marks[rng() % marks.size()]);
    }
    const std::string normalized = NormalizeUnicode(UnicodeForm::kNfc, text);
    ASSERT_EQ(normalized, NfcByIcu(text));
    changed += normalized != text;
  }
  EXPECT_GT(changed, 300);
}

TEST(NormalizeNfcTest, OtherTextIsNormalisedAsByIcuAndInvalidTextIsKept) {
  std::mt19937 rng(2);
  for (int i = 0; i < 3000; ++i) {
    const std::string text = RandomText(rng, 60);
    ASSERT_EQ(NormalizeUnicode(UnicodeForm::kNfc, text), NfcByIcu(text));
  }
  EXPECT_EQ(NormalizeUnicode(UnicodeForm::kNfc, "e\u0301\xff"), "e\u0301\xff");
  EXPECT_EQ(NormalizeUnicode(UnicodeForm::kNfc, ""), "");
}

// ICU alone walks back over the first half for each mark of the second: minutes.
TEST(NormalizeNfcTest, AMegabyteOfMarksInTheWrongOrderIsNormalisedInMoments) {
  std::string text = "e", expected;
  constexpr int kMarks = 1 << 18;
  for (int i = 0; i < kMarks; ++i) text += "\u0301";
  for (int i = 0; i < kMarks; ++i) text += "\u0316";
  expected = "\u00E9";
  for (int i = 0; i < kMarks; ++i) expected += "\u0316";
  for (int i = 1; i < kMarks; ++i) expected += "\u0301";
  EXPECT_TRUE(NormalizeUnicode(UnicodeForm::kNfc, text) == expected);
}

}  // namespace
}  // namespace winnow

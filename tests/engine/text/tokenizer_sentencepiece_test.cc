// SentencePiece's byte pair encoding against SentencePiece itself (tests/golden/README.md), and on
// vocabularies that are broken.

#include <algorithm>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/text/golden.h"
#include "tests/engine/text/golden_models.h"
#include "tests/engine/text/utf8.h"
#include "tests/engine/text/vocabulary_file.h"

namespace winnow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Ids = std::vector<int32_t>;

/// The token of a byte in SentencePieceVocabulary().
constexpr int32_t Byte(unsigned char byte) { return 3 + byte; }

std::unique_ptr<Tokenizer> MustLoad(const VocabularyFile& file) {
  auto tokenizer = file.Load();
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

/// Bytes, and "▁"= 259, "a" = 260, "b" = 261, "ab" = 262, "▁a" = 263, "aa" = 264.
VocabularyFile SmallVocabulary() {
  VocabularyFile file = SentencePieceVocabulary();
  file.Add("▁", VocabularyFile::kNormal, -10);
  file.Add("a", VocabularyFile::kNormal, -11);
  file.Add("b", VocabularyFile::kNormal, -12);
  file.Add("ab", VocabularyFile::kNormal, -1);
  file.Add("▁a", VocabularyFile::kNormal, -2);
  file.Add("aa", VocabularyFile::kNormal, -3);
  file.add_bos = false;
  return file;
}

TEST(SentencePieceTokenizerTest, EncodesAndDecodesAsSentencePiece) {
  const nlohmann::json golden = LoadGolden("tokenizer_sentencepiece.json");
  ASSERT_FALSE(golden["models"].empty());
  for (const auto& model : golden["models"]) {
    SCOPED_TRACE(model["name"]);
    const auto tokenizer = MustLoad(SentencePieceVocabulary(model));
    ASSERT_NE(tokenizer, nullptr);
    for (const auto& example : model["cases"]) {
      const std::string text = example["text"];
      const auto tokens = example["tokens"].get<Ids>();
      // To SentencePiece markers are user-defined pieces like others, found in any text; to us only
      // where they are asked for, as control tokens, which it does not find at all.
      const bool with_markers = text.find("<s>") == std::string::npos;
      EXPECT_EQ(tokenizer->Encode(text, with_markers, false), tokens) << text;
      const bool has_unknown = std::find(tokens.begin(), tokens.end(), 0) != tokens.end();
      // SentencePiece shows unknown characters as " ⁇ ", which is not text.
      if (has_unknown) continue;
      EXPECT_EQ(Decode(*tokenizer, tokens), example["decoded"]) << example["text"];
    }
  }
}

TEST(SentencePieceTokenizerTest, DecodingWhatWasEncodedGivesTheTextBack) {
  std::mt19937 rng(5);
  const nlohmann::json golden = LoadGolden("tokenizer_sentencepiece.json");
  VocabularyFile file = SentencePieceVocabulary(golden["models"][0]);
  for (const bool prefix : {true, false}) {
    file.add_space_prefix = prefix;
    const auto tokenizer = MustLoad(file);
    ASSERT_NE(tokenizer, nullptr);
    for (int i = 0; i < 1500; ++i) {
      const std::string text = RandomText(rng, 60);
      if (text.find("▁") != std::string::npos) continue;  // stands for a space
      ASSERT_EQ(Decode(*tokenizer, tokenizer->Encode(text, false, false)), text);
    }
  }
}

TEST(SentencePieceTokenizerTest, BestScoresMergeFirstAndOfEqualOnesTheLeftmost) {
  VocabularyFile file = SmallVocabulary();
  file.add_space_prefix = false;
  const auto tokenizer = MustLoad(file);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_THAT(tokenizer->Encode("aaa", false, false), ElementsAre(264, 260));
  EXPECT_THAT(tokenizer->Encode("aab", false, false), ElementsAre(260, 262));
  EXPECT_THAT(tokenizer->Encode(" ab", false, false), ElementsAre(259, 262));
  EXPECT_THAT(tokenizer->Encode(" a", false, false), ElementsAre(263));
}

TEST(SentencePieceTokenizerTest, ASpaceIsPutInFrontOfTextUnlessTheFileSaysOtherwise) {
  VocabularyFile file = SmallVocabulary();
  auto tokenizer = MustLoad(file);
  EXPECT_TRUE(tokenizer->StripsLeadingSpace());
  EXPECT_THAT(tokenizer->Encode("a", false, false), ElementsAre(263));
  EXPECT_THAT(tokenizer->Encode("", false, false), IsEmpty());
  EXPECT_EQ(Decode(*tokenizer, {263, 263}), "a a");
  file.add_space_prefix = false;
  tokenizer = MustLoad(file);
  EXPECT_FALSE(tokenizer->StripsLeadingSpace());
  EXPECT_THAT(tokenizer->Encode("a", false, false), ElementsAre(260));
  EXPECT_EQ(Decode(*tokenizer, {263, 263}), " a a");
}

TEST(SentencePieceTokenizerTest, TextBehindAControlTokenStartsWithASpaceToo) {
  // As in the data that chat models were tuned on.
  const auto tokenizer = MustLoad(SmallVocabulary());
  EXPECT_THAT(tokenizer->Encode("<s>a</s>a", true, false), ElementsAre(1, 263, 2, 263));
}

TEST(SentencePieceTokenizerTest, BosIsPutInFrontWhenAskedForUnlessTheFileSaysOtherwise) {
  VocabularyFile file = SmallVocabulary();
  file.add_bos.reset();
  EXPECT_THAT(MustLoad(file)->Encode("a", false, true), ElementsAre(1, 263));
  EXPECT_THAT(MustLoad(file)->Encode("a", false, false), ElementsAre(263));
  file.add_bos = false;
  EXPECT_THAT(MustLoad(file)->Encode("a", false, true), ElementsAre(263));
}

TEST(SentencePieceTokenizerTest, CharactersWithoutATokenAreSpelledInBytes) {
  const auto tokenizer = MustLoad(SmallVocabulary());
  EXPECT_THAT(tokenizer->Encode("é\n", false, false),
              ElementsAre(259, Byte(0xC3), Byte(0xA9), Byte('\n')));
  EXPECT_THAT(tokenizer->Encode("\xff\xe4\xb8", false, false),
              ElementsAre(259, Byte(0xFF), Byte(0xE4), Byte(0xB8)));
}

TEST(SentencePieceTokenizerTest, WithoutByteTokensARunOfUnknownCharactersIsOneUnknownToken) {
  VocabularyFile file{.model = "llama", .unknown = 0, .add_bos = false, .add_space_prefix = false};
  file.Add("<unk>", VocabularyFile::kUnknown);
  file.Add("a");
  auto tokenizer = MustLoad(file);
  EXPECT_THAT(tokenizer->Encode("éüaé", false, false), ElementsAre(0, 1, 0));
  file.unknown.reset();
  tokenizer = MustLoad(file);
  EXPECT_THAT(tokenizer->Encode("éüaé", false, false), ElementsAre(1));
}

TEST(SentencePieceTokenizerTest, SpellingsOfByteAndControlTokensAreOrdinaryText) {
  const auto tokenizer = MustLoad(SmallVocabulary());
  EXPECT_EQ(tokenizer->Encode("<0x0A>", true, false).size(), 7u);
  EXPECT_EQ(tokenizer->Encode("<s>", false, false).size(), 4u);
  EXPECT_THAT(tokenizer->Encode("<s>", true, false), ElementsAre(1));
}

TEST(SentencePieceTokenizerTest, AFileWithoutTypesHasBytesAndMarkersByTheirSpelling) {
  VocabularyFile file = SmallVocabulary();
  file.Add("<|im_end|>");
  const auto typed = MustLoad(file);
  file.types.clear();
  const auto tokenizer = MustLoad(file);
  ASSERT_NE(tokenizer, nullptr);
  for (const char* text : {"é\n", "<s>a</s><unk>", "ab<|im_end|>", "<0x0A>"}) {
    for (const bool parse_special : {true, false}) {
      EXPECT_EQ(tokenizer->Encode(text, parse_special, false),
                typed->Encode(text, parse_special, false))
          << text;
    }
  }
  EXPECT_TRUE(tokenizer->IsEndOfGeneration(tokenizer->vocab_size() - 1));
}

TEST(SentencePieceTokenizerTest, ATextOfAMegabyteIsEncodedInMoments) {
  const auto tokenizer = MustLoad(SmallVocabulary());
  EXPECT_EQ(tokenizer->Encode(std::string((1 << 20) + 1, 'a'), false, false).size(),
            (size_t{1} << 19) + 1);
}

struct BrokenFile {
  const char* name;
  void (*edit)(VocabularyFile&);
  const char* message;
};

class BrokenSentencePieceVocabularyTest : public testing::TestWithParam<BrokenFile> {};

TEST(SentencePieceTokenizerTest, NoTextHasFewerTokensThanItsBytesPromise) {
  std::mt19937 rng(4);
  const nlohmann::json golden = LoadGolden("tokenizer_sentencepiece.json");
  for (const auto& model : golden["models"]) {
    const auto tokenizer = MustLoad(SentencePieceVocabulary(model));
    ASSERT_NE(tokenizer, nullptr);
    const auto check = [&](const std::string& text) {
      const TextSegment segment = {text, /*parse_special=*/true};
      ASSERT_LE(tokenizer->LeastTokens({&segment, 1}), tokenizer->Encode(text, true, false).size());
    };
    for (int i = 0; i < 1000; ++i) check(RandomText(rng, 60));
    for (int32_t token = 0; token < tokenizer->vocab_size(); ++token) {
      const std::string bytes = tokenizer->TokenBytes(token, /*render_special=*/true);
      check(bytes + bytes + bytes + bytes);
    }
    std::string marks;
    for (int i = 0; i < 1000; ++i) marks += "\u2581";  // what stands for a space
    check(marks);
  }
}

TEST_P(BrokenSentencePieceVocabularyTest, IsRefusedNamingTheKey) {
  VocabularyFile file = SmallVocabulary();
  GetParam().edit(file);
  const auto tokenizer = file.Load();
  ASSERT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument) << tokenizer.status();
  EXPECT_THAT(tokenizer.status().message(), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, BrokenSentencePieceVocabularyTest,
    testing::Values(
        BrokenFile{"NoScores", [](VocabularyFile& f) { f.scores.clear(); }, "ggml.scores"},
        BrokenFile{"TooFewScores", [](VocabularyFile& f) { f.scores.pop_back(); }, "ggml.scores"},
        BrokenFile{
            "ScoreThatIsNoNumber",
            [](VocabularyFile& f) { f.scores[260] = std::numeric_limits<float>::quiet_NaN(); },
            "ggml.scores"},
        BrokenFile{"BosWantedButMissing",
                   [](VocabularyFile& f) {
                     f.bos.reset();
                     f.add_bos.reset();
                   },
                   "ggml.bos_token_id"},
        BrokenFile{"ShortByteToken", [](VocabularyFile& f) { f.tokens[10] = "<0x7>"; },
                   "ggml.tokens"},
        BrokenFile{"ByteTokenOfNoDigits", [](VocabularyFile& f) { f.tokens[10] = "<0xGG>"; },
                   "ggml.tokens"},
        BrokenFile{"ByteTokenLeftOpen", [](VocabularyFile& f) { f.tokens[10] = "<0x0A "; },
                   "ggml.tokens"},
        BrokenFile{"EmptyByteToken", [](VocabularyFile& f) { f.tokens[10] = ""; }, "ggml.tokens"}),
    [](const auto& info) { return info.param.name; });

TEST(BrokenSentencePieceVocabularyTest, AVocabularyOfAnythingIsRefusedOrEncodesAnyText) {
  std::mt19937 rng(6);
  const std::vector<std::string> pool = {"",    " ",   "a",      "b",      "ab",  "\xff",    "▁",
                                         "▁a",  "▁▁",  "é",      "日本",   "<s>", "\n",      "aa",
                                         "aaa", "aab", "<0x0A>", "<0x61>", "ba",  "\xe2\x96"};
  const std::vector<float> scores = {0,     -1,     -2,
                                     1e30f, -1e30f, std::numeric_limits<float>::infinity()};
  const auto any = [&rng](const auto& values) { return values[rng() % values.size()]; };
  int loaded = 0;
  for (int i = 0; i < 600; ++i) {
    VocabularyFile file{.model = "llama", .add_bos = rng() % 2 == 0};
    for (int n = 1 + static_cast<int>(rng() % 12); n > 0; --n) {
      const std::string token = any(pool);
      // Mostly byte tokens that are some, or nothing would load.
      const bool is_byte = token.starts_with("<0x") && rng() % 8 != 0;
      const auto type = static_cast<int32_t>(rng() % 6);
      file.Add(token, is_byte ? VocabularyFile::kByte : type, any(scores));
    }
    if (rng() % 2 == 0) file.bos = rng() % 14;
    if (rng() % 2 == 0) file.unknown = rng() % 14;
    const auto tokenizer = file.Load();
    if (!tokenizer.ok()) continue;
    ++loaded;
    for (const std::string& text :
         {std::string("aaab  a\xff</s><s>é日本\n"), RandomBytes(rng, 20)}) {
      for (const int32_t token : (*tokenizer)->Encode(text, true, true)) {
        ASSERT_GE(token, 0);
        ASSERT_LT(token, (*tokenizer)->vocab_size());
      }
    }
    std::vector<int32_t> all(static_cast<size_t>((*tokenizer)->vocab_size()));
    for (size_t t = 0; t < all.size(); ++t) all[t] = static_cast<int32_t>(t);
    Decode(**tokenizer, all, /*render_special=*/true);
  }
  EXPECT_GT(loaded, 50);
}

}  // namespace
}  // namespace winnow

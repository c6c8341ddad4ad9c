// Byte-level byte pair encoding against Hugging Face tokenizers (tests/golden/README.md), and on
// vocabularies that are broken.

#include <algorithm>
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
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

using Ids = std::vector<int32_t>;

std::unique_ptr<Tokenizer> MustLoad(const VocabularyFile& file) {
  auto tokenizer = file.Load();
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

/// The bytes, and "ab", "abc", " a", "xx" and "xxxx" as the tokens 256 to 260.
VocabularyFile SmallVocabulary() {
  VocabularyFile file = ByteLevelVocabulary();
  for (const char* token : {"ab", "abc", "Ġa", "xx", "xxxx"}) file.Add(token);
  file.scores.clear();
  file.merges = {"a b", "ab c", "Ġ a", "x x", "xx xx"};
  return file;
}

TEST(BpeTokenizerTest, EncodesAsHuggingFaceTokenizersWithEachPretokenizer) {
  const nlohmann::json golden = LoadGolden("tokenizer_bpe.json");
  ASSERT_FALSE(golden["models"].empty());
  for (const auto& model : golden["models"]) {
    SCOPED_TRACE(model["pre"]);
    const auto tokenizer = MustLoad(BpeVocabulary(model));
    ASSERT_NE(tokenizer, nullptr);
    for (const auto& example : model["cases"]) {
      const std::string text = example["text"];
      EXPECT_EQ(tokenizer->Encode(text, /*parse_special=*/true, false),
                example["tokens"].get<Ids>())
          << example["text"];
      const auto& plain = example.contains("plain") ? example["plain"] : example["tokens"];
      EXPECT_EQ(tokenizer->Encode(text, /*parse_special=*/false, false), plain.get<Ids>())
          << example["text"];
    }
  }
}

TEST(BpeTokenizerTest, DecodingWhatWasEncodedGivesTheTextBack) {
  std::mt19937 rng(2);
  const nlohmann::json golden = LoadGolden("tokenizer_bpe.json");
  for (const auto& model : golden["models"]) {
    SCOPED_TRACE(model["pre"]);
    if (model["pre"] == "qwen2") continue;  // normalises
    const auto tokenizer = MustLoad(BpeVocabulary(model));
    ASSERT_NE(tokenizer, nullptr);
    for (int i = 0; i < 1500; ++i) {
      const std::string text = RandomText(rng, 60);
      const Ids tokens = tokenizer->Encode(text, /*parse_special=*/false, false);
      ASSERT_EQ(Decode(*tokenizer, tokens), text);
    }
  }
}

TEST(BpeTokenizerTest, BytesThatAreNotUtf8AreKeptInTokens) {
  std::mt19937 rng(3);
  for (const char* pre : {"gpt-2", "smollm", "llama-bpe", "qwen2"}) {
    VocabularyFile file = SmallVocabulary();
    file.pre = pre;
    const auto tokenizer = MustLoad(file);
    ASSERT_NE(tokenizer, nullptr);
    for (int i = 0; i < 500; ++i) {
      const std::string text = "\xff" + RandomBytes(rng, 40);
      std::string bytes;
      for (const int32_t token : tokenizer->Encode(text, false, false)) {
        bytes += tokenizer->TokenBytes(token, false);
      }
      ASSERT_EQ(bytes, text);
    }
  }
}

TEST(BpeTokenizerTest, EqualMergesGoLeftFirst) {
  const auto tokenizer = MustLoad(SmallVocabulary());
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_THAT(tokenizer->Encode("xxx", false, false), ElementsAre(259, 'x'));
  EXPECT_THAT(tokenizer->Encode("xxxxxxx", false, false), ElementsAre(260, 259, 'x'));
  EXPECT_THAT(tokenizer->Encode("abcab", false, false), ElementsAre(257, 256));
}

TEST(BpeTokenizerTest, AWordThatIsATokenIsThatTokenOnlyWhereMergesAreIgnored) {
  VocabularyFile file = SmallVocabulary();
  const auto word = static_cast<int32_t>(file.Add("cab"));
  const auto longest = static_cast<int32_t>(file.Add(std::string(300, 'x')));
  file.scores.clear();
  EXPECT_THAT(MustLoad(file)->Encode("cab", false, false), ElementsAre('c', 256));
  file.pre = "llama-bpe";
  const auto tokenizer = MustLoad(file);
  EXPECT_THAT(tokenizer->Encode("cab", false, false), ElementsAre(word));
  EXPECT_THAT(tokenizer->Encode(std::string(300, 'x'), false, false), ElementsAre(longest));
  EXPECT_EQ(tokenizer->Encode(std::string(301, 'x'), false, false).size(), 76u);
}

TEST(BpeTokenizerTest, ATextOfAMegabyteInOneWordIsEncodedInMoments) {
  const auto tokenizer = MustLoad(SmallVocabulary());
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->Encode(std::string(1 << 20, 'x'), false, false).size(), size_t{1} << 18);
}

TEST(BpeTokenizerTest, NoTextHasFewerTokensThanItsBytesPromise) {
  std::mt19937 rng(4);
  const nlohmann::json golden = LoadGolden("tokenizer_bpe.json");
  for (const auto& model : golden["models"]) {
    SCOPED_TRACE(model["pre"]);
    const auto tokenizer = MustLoad(BpeVocabulary(model));
    ASSERT_NE(tokenizer, nullptr);
    const auto check = [&](const std::string& text) {
      const TextSegment segment = {text, /*parse_special=*/true};
      ASSERT_LE(tokenizer->LeastTokens({&segment, 1}), tokenizer->Encode(text, true, false).size());
    };
    for (int i = 0; i < 1000; ++i) check(RandomText(rng, 60));
    // Texts that are nothing but the longest tokens, or that composing makes shorter.
    for (int32_t token = 0; token < tokenizer->vocab_size(); ++token) {
      const std::string bytes = tokenizer->TokenBytes(token, /*render_special=*/true);
      check(bytes + bytes + bytes + bytes);
    }
    for (const char* text : {"\u1112\u1161\u11ab", "\u212a", "\u2126\u0314\u0342\u0345"}) {
      std::string repeated;
      for (int i = 0; i < 1000; ++i) repeated += text;
      check(repeated);
    }
    const TextSegment large = {std::string(1'000'000, ' '), false};
    EXPECT_GT(tokenizer->LeastTokens({&large, 1}), 1000u);
  }
}

TEST(BpeTokenizerTest, BytesWithoutATokenPromiseNone) {
  VocabularyFile file = SmallVocabulary();
  file.tokens[0] = "[nothing]";
  const auto tokenizer = MustLoad(file);
  ASSERT_NE(tokenizer, nullptr);
  const TextSegment segments[] = {{std::string(1000, '\0'), false}, {"abc", false}};
  EXPECT_EQ(tokenizer->EncodeSegments(segments, false).size(), 1u);
  EXPECT_EQ(tokenizer->LeastTokens(segments), 1u);
}

TEST(BpeTokenizerTest, ACancelledTextIsLeftUnmerged) {
  const auto tokenizer = MustLoad(SmallVocabulary());
  ASSERT_NE(tokenizer, nullptr);
  const TextSegment segment = {std::string(1000, 'x'), false};
  EXPECT_EQ(tokenizer->EncodeSegments({&segment, 1}, false, /*cancelled=*/false).size(), 250u);
  EXPECT_NE(tokenizer->EncodeSegments({&segment, 1}, false, /*cancelled=*/true).size(), 250u);
}

// Looking for the whole spelling from each place of the text takes half an hour.
TEST(BpeTokenizerTest, ASpellingOfAMegabyteHoldsUpNothing) {
  VocabularyFile file = SmallVocabulary();
  file.Add(std::string(1 << 20, 'x') + "y", VocabularyFile::kUserDefined);
  const auto run = static_cast<int32_t>(file.Add(std::string(256, 'x'), VocabularyFile::kControl));
  file.scores.clear();
  const auto tokenizer = MustLoad(file);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->Encode(std::string(1 << 20, 'x'), false, false).size(), size_t{1} << 18);
  EXPECT_EQ(tokenizer->Encode(std::string(1 << 20, 'x'), true, false), Ids(size_t{1} << 12, run));
}

TEST(BpeTokenizerTest, UserDefinedTokensAreFoundInAnyTextAndControlTokensOnRequest) {
  VocabularyFile file = SmallVocabulary();
  const auto control = static_cast<int32_t>(file.Add("<|end|>", VocabularyFile::kControl));
  const auto longer = static_cast<int32_t>(file.Add("<|end|>!", VocabularyFile::kControl));
  const auto defined = static_cast<int32_t>(file.Add("é ü", VocabularyFile::kUserDefined));
  file.scores.clear();
  const auto tokenizer = MustLoad(file);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_THAT(tokenizer->Encode("aé üb<|end|>", true, false),
              ElementsAre('a', defined, 'b', control));
  EXPECT_THAT(tokenizer->Encode("<|end|>!<|end|>", true, false), ElementsAre(longer, control));
  EXPECT_THAT(tokenizer->Encode("é ü<|end|", true, false),
              ElementsAre(defined, '<', '|', 'e', 'n', 'd', '|'));
  EXPECT_THAT(tokenizer->Encode("é ü<|", false, false), ElementsAre(defined, '<', '|'));
  EXPECT_THAT(tokenizer->Encode("<|end|>", false, false),
              ElementsAre('<', '|', 'e', 'n', 'd', '|', '>'));
  EXPECT_EQ(tokenizer->TokenBytes(defined, false), "é ü");
  EXPECT_EQ(tokenizer->TokenBytes(control, false), "");
  EXPECT_EQ(tokenizer->TokenBytes(control, true), "<|end|>");
}

TEST(BpeTokenizerTest, MarkersAreTextInPlainTextThoughTheFileTypesThemAsUserDefined) {
  VocabularyFile file = SmallVocabulary();
  file.chat_template = "{{ '<start_of_turn>' + message['role'] + '[INST]' + '<br>' }}";
  std::vector<int32_t> markers;
  for (const char* marker : {"<|im_start|>", "<|im_end|>", "<｜User｜>", "</s>", "<start_of_turn>",
                             "[INST]", "<|im_start|>assistant\n"}) {
    markers.push_back(static_cast<int32_t>(file.Add(marker, VocabularyFile::kUserDefined)));
  }
  const auto ordinary = static_cast<int32_t>(file.Add("<table>", VocabularyFile::kUserDefined));
  file.scores.clear();
  const auto tokenizer = MustLoad(file);
  ASSERT_NE(tokenizer, nullptr);
  for (const int32_t marker : markers) {
    const std::string& spelling = file.tokens[marker];
    EXPECT_THAT(tokenizer->Encode(spelling, /*parse_special=*/true, false), ElementsAre(marker));
    EXPECT_EQ(tokenizer->Encode(spelling, /*parse_special=*/false, false).size(), spelling.size())
        << spelling;
    // What the model writes of them is shown, as before.
    EXPECT_EQ(tokenizer->TokenBytes(marker, /*render_special=*/false), spelling);
  }
  EXPECT_THAT(tokenizer->Encode("<table>", /*parse_special=*/false, false), ElementsAre(ordinary));
}

TEST(BpeTokenizerTest, MarkersTypedAsNormalOrNotAtAllAreControlTokensByTheirLooks) {
  VocabularyFile file = SmallVocabulary();
  file.chat_template = "{{ '<start_of_turn>' + messages[0]['content'] + '<br>' }}";
  std::vector<int32_t> markers;
  for (const char* marker : {"<|im_start|>", "<|im_end|>", "<｜User｜>", "<start_of_turn>"}) {
    markers.push_back(static_cast<int32_t>(file.Add(marker)));
  }
  // Text, though some of it looks similar: made by merges, not in the template, or code.
  for (const char* token : {"<b", "<br", "<br>", "[0]", "<i>", "<|>", "|>", "<| |>", "<a|b|>"}) {
    file.Add(token);
  }
  file.scores.clear();
  for (const char* merge : {"< b", "<b r", "<br >"}) file.merges.push_back(merge);
  for (const bool typed : {true, false}) {
    if (!typed) file.types.clear();
    const auto tokenizer = MustLoad(file);
    ASSERT_NE(tokenizer, nullptr);
    for (const int32_t marker : markers) {
      const std::string& spelling = file.tokens[marker];
      EXPECT_THAT(tokenizer->Encode(spelling, /*parse_special=*/true, false), ElementsAre(marker));
      EXPECT_EQ(tokenizer->Encode(spelling, /*parse_special=*/false, false).size(),
                spelling.size());
      EXPECT_EQ(tokenizer->TokenBytes(marker, /*render_special=*/false), "");
      EXPECT_EQ(tokenizer->IsEndOfGeneration(marker), spelling == "<|im_end|>");
    }
    for (int32_t token = markers.back() + 1; token < tokenizer->vocab_size(); ++token) {
      EXPECT_EQ(tokenizer->TokenBytes(token, /*render_special=*/false), file.tokens[token]);
      EXPECT_THAT(tokenizer->Encode(file.tokens[token], /*parse_special=*/true, false),
                  Not(ElementsAre(Ge(markers.front()))))
          << file.tokens[token];
    }
  }
}

TEST(BpeTokenizerTest, OrdinaryTextNeverMergesIntoAMarker) {
  VocabularyFile file = SmallVocabulary();
  for (const char* token : {"<|", "|>", "<|b"}) file.Add(token);
  file.Add("<|b|>", VocabularyFile::kUserDefined);
  file.scores.clear();
  for (const char* merge : {"< |", "| >", "<| b", "<|b |>"}) file.merges.push_back(merge);
  const auto tokenizer = file.Load();
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument) << tokenizer.status();
}

TEST(BpeTokenizerTest, BosIsPutInFrontWhenAskedForAndTheFileSaysSo) {
  VocabularyFile file = SmallVocabulary();
  file.bos = file.Add("<s>", VocabularyFile::kControl);
  file.scores.clear();
  const auto bos = static_cast<int32_t>(*file.bos);
  EXPECT_THAT(MustLoad(file)->Encode("a", false, true), ElementsAre('a'));
  file.add_bos = true;
  EXPECT_THAT(MustLoad(file)->Encode("a", false, true), ElementsAre(bos, 'a'));
  EXPECT_THAT(MustLoad(file)->Encode("", false, true), ElementsAre(bos));
  EXPECT_THAT(MustLoad(file)->Encode("a", false, false), ElementsAre('a'));
  file.add_bos.reset();
  file.pre = "llama-bpe";
  EXPECT_THAT(MustLoad(file)->Encode("a", false, true), ElementsAre(bos, 'a'));
}

TEST(BpeTokenizerTest, TurnEndsEndAGenerationBesideTheEndOfSequence) {
  for (const int32_t type : {VocabularyFile::kControl, VocabularyFile::kUserDefined}) {
    VocabularyFile file = SmallVocabulary();
    file.eos = file.Add("<end>", VocabularyFile::kControl);
    const auto turn_end = static_cast<int32_t>(file.Add("<|im_end|>", type));
    const auto turn_start = static_cast<int32_t>(file.Add("<|im_start|>", type));
    file.scores.clear();
    const auto tokenizer = MustLoad(file);
    ASSERT_NE(tokenizer, nullptr);
    EXPECT_TRUE(tokenizer->IsEndOfGeneration(static_cast<int32_t>(*file.eos)));
    EXPECT_TRUE(tokenizer->IsEndOfGeneration(turn_end)) << "type " << type;
    EXPECT_FALSE(tokenizer->IsEndOfGeneration(turn_start));
    EXPECT_FALSE(tokenizer->IsEndOfGeneration('a'));
  }
}

TEST(BpeTokenizerTest, OrdinaryTextNeverMergesIntoAControlToken) {
  VocabularyFile file = SmallVocabulary();
  file.Add("<s");
  file.Add("<s>", VocabularyFile::kControl);
  file.scores.clear();
  file.merges.push_back("< s");
  file.merges.push_back("<s >");
  const auto tokenizer = file.Load();
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(tokenizer.status().message(), HasSubstr("tokenizer.ggml.merges"));
}

TEST(BpeTokenizerTest, BytesWithoutATokenAreLeftOut) {
  VocabularyFile file = SmallVocabulary();
  file.tokens['!'] = "unused";
  const auto tokenizer = MustLoad(file);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_THAT(tokenizer->Encode("a!b", false, false), ElementsAre('a', 'b'));
  EXPECT_THAT(tokenizer->Encode("!", false, false), IsEmpty());
}

TEST(BpeTokenizerTest, OfTokensSpelledAlikeTheFirstOneIsUsed) {
  VocabularyFile file = SmallVocabulary();
  file.Add("a");
  file.Add("ab");
  file.Add("<x>", VocabularyFile::kControl);
  file.Add("<x>", VocabularyFile::kControl);
  file.scores.clear();
  const auto tokenizer = MustLoad(file);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_THAT(tokenizer->Encode("a", false, false), ElementsAre('a'));
  EXPECT_THAT(tokenizer->Encode("ab", false, false), ElementsAre(256));
  EXPECT_THAT(tokenizer->Encode("aab<x>", true, false), ElementsAre('a', 256, 263));
}

struct BrokenFile {
  const char* name;
  void (*edit)(VocabularyFile&);
  absl::StatusCode code;
  const char* message;
};

class BrokenBpeVocabularyTest : public testing::TestWithParam<BrokenFile> {};

TEST_P(BrokenBpeVocabularyTest, IsRefusedNamingTheKey) {
  VocabularyFile file = SmallVocabulary();
  GetParam().edit(file);
  const auto tokenizer = file.Load();
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.status().code(), GetParam().code) << tokenizer.status();
  EXPECT_THAT(tokenizer.status().message(), HasSubstr(GetParam().message));
}

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

INSTANTIATE_TEST_SUITE_P(
    All, BrokenBpeVocabularyTest,
    testing::Values(BrokenFile{"NoModel", [](VocabularyFile& f) { f.model = ""; }, kInvalid,
                               "ggml.model"},
                    BrokenFile{"UnknownModel", [](VocabularyFile& f) { f.model = "bert"; },
                               kUnimplemented, "'bert'"},
                    BrokenFile{"UnknownPretokenizer", [](VocabularyFile& f) { f.pre = "bloom"; },
                               kUnimplemented, "'bloom'"},
                    BrokenFile{"NoTokens", [](VocabularyFile& f) { f.tokens.clear(); }, kInvalid,
                               "ggml.tokens"},
                    BrokenFile{"NoMerges", [](VocabularyFile& f) { f.merges.clear(); }, kInvalid,
                               "ggml.merges"},
                    BrokenFile{"MergeWithoutASpace", [](VocabularyFile& f) { f.merges[1] = "abc"; },
                               kInvalid, "ggml.merges"},
                    BrokenFile{"EmptyMerge", [](VocabularyFile& f) { f.merges[1] = ""; }, kInvalid,
                               "ggml.merges"},
                    BrokenFile{"MergeOfOneSide", [](VocabularyFile& f) { f.merges[1] = "ab "; },
                               kInvalid, "ggml.merges"},
                    BrokenFile{"MergeOfThree", [](VocabularyFile& f) { f.merges[1] = "a b c"; },
                               kInvalid, "ggml.merges"},
                    BrokenFile{"MergeIntoNoToken", [](VocabularyFile& f) { f.merges[1] = "b a"; },
                               kInvalid, "ggml.merges"},
                    BrokenFile{"MergeOfNoToken", [](VocabularyFile& f) { f.merges[1] = "xxx x"; },
                               kInvalid, "ggml.merges"},
                    BrokenFile{"TooFewTypes", [](VocabularyFile& f) { f.types.pop_back(); },
                               kInvalid, "ggml.token_type"},
                    BrokenFile{"TypeAboveAll", [](VocabularyFile& f) { f.types[7] = 7; }, kInvalid,
                               "ggml.token_type"},
                    BrokenFile{"NegativeType", [](VocabularyFile& f) { f.types[7] = -1; }, kInvalid,
                               "ggml.token_type"},
                    BrokenFile{"TooManyScores",
                               [](VocabularyFile& f) { f.scores.assign(f.tokens.size() + 1, 0); },
                               kInvalid, "ggml.scores"},
                    BrokenFile{"BosOutside", [](VocabularyFile& f) { f.bos = f.tokens.size(); },
                               kInvalid, "ggml.bos_token_id"},
                    BrokenFile{"EosOutside", [](VocabularyFile& f) { f.eos = 0x7FFFFFFF; },
                               kInvalid, "ggml.eos_token_id"},
                    BrokenFile{"UnknownOutside", [](VocabularyFile& f) { f.unknown = 0xFFFFFFFE; },
                               kInvalid, "ggml.unknown_token_id"},
                    BrokenFile{"BosWantedButMissing", [](VocabularyFile& f) { f.add_bos = true; },
                               kInvalid, "ggml.bos_token_id"}),
    [](const auto& info) { return info.param.name; });

TEST(BrokenBpeVocabularyTest, ValuesOfAnotherTypeAreRefusedNamingTheKey) {
  for (const char* name : {"model", "pre", "tokens", "token_type", "scores", "merges",
                           "bos_token_id", "add_bos_token", "add_space_prefix"}) {
    const std::string key = std::string("tokenizer.ggml.") + name;
    VocabularyFile file = SmallVocabulary();
    if (key == "tokenizer.ggml.model") file.model = "";
    if (key == "tokenizer.ggml.pre") file.pre = "";
    if (key == "tokenizer.ggml.tokens") file.tokens.clear();
    if (key == "tokenizer.ggml.token_type") file.types.clear();
    if (key == "tokenizer.ggml.merges") file.merges.clear();
    GgufWriter writer = file.Write();
    writer.Float32(key, 1.5f);
    const auto tokenizer = VocabularyFile::LoadTokenizer(writer);
    EXPECT_EQ(tokenizer.status().code(), kInvalid) << key << ": " << tokenizer.status();
    EXPECT_THAT(tokenizer.status().message(), HasSubstr(key));
  }
}

TEST(BrokenBpeVocabularyTest, NoIdStandsForNoToken) {
  VocabularyFile file = SmallVocabulary();
  file.bos = file.eos = 0xFFFFFFFF;
  const auto tokenizer = MustLoad(file);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->bos_token(), -1);
}

TEST(BrokenBpeVocabularyTest, AVocabularyOfAnythingIsRefusedOrEncodesAnyText) {
  std::mt19937 rng(4);
  const std::vector<std::string> pool = {"",  " ",  "b",  "ab",  "\xff", "\xc4",     "Ġ",   "Ġa",
                                         "é", "aa", "ba", "aaa", "<s>",  "<0x0A>",   "Ċ",   "日本",
                                         "b", "ab", "aa", "aab", "</s>", "\xc4\xff", "aab", "\n"};
  const std::vector<std::string> merges = {"a a",  "a b", "b a", "aa a", "a aa", "aa b",
                                           "a ab", "Ġ a", " a",  "a ",   "Ċ Ċ",  "< s>"};
  const std::vector<std::string> pres = {"gpt-2", "smollm", "llama-bpe", "qwen2"};
  const auto any = [&rng](const auto& values) { return values[rng() % values.size()]; };
  int loaded = 0;
  for (int i = 0; i < 600; ++i) {
    VocabularyFile file{.model = "gpt2", .pre = any(pres)};
    file.Add("a");
    for (int n = static_cast<int>(rng() % 20); n > 0; --n) {
      // Mostly normal tokens, or few merges would have what they name.
      file.Add(any(pool), rng() % 4 == 0 ? static_cast<int32_t>(rng() % 7) : 1);
    }
    for (int n = 1 + static_cast<int>(rng() % 2); n > 0; --n) file.merges.push_back(any(merges));
    if (rng() % 4 == 0) file.bos = rng() % 22;
    const auto tokenizer = file.Load();
    if (!tokenizer.ok()) continue;
    ++loaded;
    for (const std::string& text :
         {std::string("aaab a\xff</s><s>é日本\n"), RandomBytes(rng, 20)}) {
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

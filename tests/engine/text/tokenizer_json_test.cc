// tokenizer.json files against Hugging Face tokenizers (tests/golden/README.md), and files that are
// broken or ask for more than Winnow does.

#include "engine/text/tokenizer_json.h"

#include <algorithm>
#include <cctype>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/text/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/text/digest.h"
#include "tests/engine/text/golden.h"
#include "tests/engine/text/utf8.h"
#include "tests/engine/text/vocabulary_file.h"

namespace winnow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Ids = std::vector<int32_t>;

const nlohmann::json& Golden() {
  static const nlohmann::json golden = LoadGolden("tokenizer_json.json");
  return golden;
}

std::unique_ptr<Tokenizer> MustLoad(const nlohmann::json& file) {
  const auto vocabulary = ReadTokenizerJson(file.dump());
  EXPECT_TRUE(vocabulary.ok()) << vocabulary.status();
  return vocabulary.ok() ? Tokenizer::Create(*vocabulary) : nullptr;
}

class TokenizerJsonGoldenTest : public testing::TestWithParam<size_t> {
 protected:
  void SetUp() override {
    ASSERT_LT(GetParam(), Golden()["models"].size());
    SCOPED_TRACE(model_["name"]);
    tokenizer_ = MustLoad(model_["tokenizer"]);
    ASSERT_NE(tokenizer_, nullptr);
  }

  /// Compares the digest of what `row` makes of each batch of texts.
  template <typename Row>
  void ExpectDigests(const char* name, Row row) {
    const size_t batch = Golden()["batch"];
    for (size_t i = 0; i < texts_.size(); i += batch) {
      Digest digest;
      std::string of;
      for (size_t j = i; j < std::min(i + batch, texts_.size()); ++j) {
        digest.Add(row(texts_[j]));
        of += "\n  " + nlohmann::json(texts_[j]).dump();
      }
      EXPECT_EQ(digest.Text(), model_[name][i / batch].get<std::string>()) << name << " of:" << of;
    }
  }

  const nlohmann::json& model_ = Golden()["models"][GetParam()];
  const std::vector<std::string> texts_ = Golden()["texts"];
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(TokenizerJsonGoldenTest, EncodesAsHuggingFaceTokenizers) {
  for (size_t i = 0; i < model_["tokens"].size(); ++i) {
    EXPECT_EQ(tokenizer_->Encode(texts_[i], /*parse_special=*/true, false),
              model_["tokens"][i].get<Ids>())
        << nlohmann::json(texts_[i]);
  }
  ExpectDigests("token_digests", [this](const std::string& text) {
    return tokenizer_->Encode(text, /*parse_special=*/true, false);
  });
  if (model_.contains("plain_digests")) {
    ExpectDigests("plain_digests", [this](const std::string& text) {
      return tokenizer_->Encode(text, /*parse_special=*/false, false);
    });
  }
}

TEST_P(TokenizerJsonGoldenTest, DecodesAsHuggingFaceTokenizers) {
  ExpectDigests("decoded_digests", [this](const std::string& text) {
    const std::string decoded = Decode(*tokenizer_, tokenizer_->Encode(text, true, false));
    return std::vector<unsigned char>(decoded.begin(), decoded.end());
  });
}

TEST_P(TokenizerJsonGoldenTest, PutsInFrontWhatThePostProcessorDoes) {
  EXPECT_EQ(tokenizer_->Encode("", /*parse_special=*/true, /*add_bos=*/true),
            model_["prefix"].get<Ids>());
}

TEST_P(TokenizerJsonGoldenTest, StretchesOfPlainTextAreOneText) {
  const nlohmann::json& added = model_["tokenizer"]["added_tokens"];
  std::mt19937 rng(11);
  for (size_t i = 0; i < texts_.size(); i += 7) {
    const std::string& text = texts_[i];
    const bool has_added = std::any_of(added.begin(), added.end(), [&text](const auto& token) {
      return text.find(token["content"].template get<std::string>()) != std::string::npos;
    });
    if (has_added) continue;  // one that reaches across the edge is not found
    const size_t cut = text.empty() ? 0 : rng() % text.size();
    const TextSegment segments[] = {{text.substr(0, cut), false}, {text.substr(cut), false}};
    EXPECT_EQ(tokenizer_->EncodeSegments(segments, false), tokenizer_->Encode(text, false, false));
  }
}

TEST_P(TokenizerJsonGoldenTest, NoTextHasFewerTokensThanItsBytesPromise) {
  std::mt19937 rng(12);
  const auto check = [&](const std::string& text) {
    const TextSegment segment = {text, /*parse_special=*/true};
    ASSERT_LE(tokenizer_->LeastTokens({&segment, 1}), tokenizer_->Encode(text, true, false).size())
        << nlohmann::json(text);
  };
  for (const std::string& text : texts_) check(text);
  for (int i = 0; i < 300; ++i) check(RandomText(rng, 60));
  for (int32_t token = 0; token < tokenizer_->vocab_size(); ++token) {
    const std::string bytes = tokenizer_->TokenBytes(token, /*render_special=*/true);
    check(bytes + bytes + bytes + bytes);
    check(bytes + std::string(200, ' ') + "x");
  }
}

TEST_P(TokenizerJsonGoldenTest, AnyBytesBecomeTokensOfTheVocabulary) {
  std::mt19937 rng(13);
  for (int i = 0; i < 500; ++i) {
    const std::string text = RandomBytes(rng, 40);
    for (const int32_t token : tokenizer_->Encode(text, true, true)) {
      ASSERT_GE(token, 0);
      ASSERT_LT(token, tokenizer_->vocab_size());
    }
  }
}

// Quadratic time would be minutes.
TEST_P(TokenizerJsonGoldenTest, ALongTextWithoutASpaceIsEncodedInMoments) {
  for (const char* piece : {"ab", "7", "\u6F22", "\xff"}) {
    std::string text;
    while (text.size() < 1 << 18) text += piece;
    const Ids tokens = tokenizer_->Encode(text, true, false);
    EXPECT_LE(tokens.size(), 2 * text.size());
  }
}

TEST_P(TokenizerJsonGoldenTest, ACancelledTextIsGivenUp) {
  const TextSegment segment = {std::string(100'000, 'a') + std::string(100'000, ' '), false};
  EXPECT_LT(tokenizer_->EncodeSegments({&segment, 1}, false, /*cancelled=*/true).size(), 100u);
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerJsonGoldenTest,
                         testing::Range<size_t>(0,
                                                LoadGolden("tokenizer_json.json")["models"].size()),
                         [](const auto& info) {
                           std::string name = Golden()["models"][info.param]["name"];
                           std::erase_if(name, [](char c) { return !std::isalnum(c); });
                           return name;
                         });

/// Characters and a few merges; "[B]" is a control token, "[B" and "]" are none.
nlohmann::json SmallFile() {
  return nlohmann::json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [
      {"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
       "normalized": false, "special": true},
      {"id": 9, "content": "<t>", "single_word": false, "lstrip": false, "rstrip": false,
       "normalized": false, "special": false}],
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
    "decoder": {"type": "Fuse"},
    "model": {"type": "BPE", "dropout": null, "unk_token": "?", "fuse_unk": false,
      "byte_fallback": false, "ignore_merges": false,
      "vocab": {"<s>": 0, "?": 1, "a": 2, "b": 3, "ab": 4}, "merges": ["a b"]}})");
}

TEST(TokenizerJsonTest, MergesAreStringsOrPairs) {
  nlohmann::json file = SmallFile();
  EXPECT_THAT(MustLoad(file)->Encode("ab aab", false, true), ElementsAre(0, 4, 2, 4));
  file["model"]["merges"] = nlohmann::json::array({nlohmann::json::array({"a", "b"})});
  EXPECT_THAT(MustLoad(file)->Encode("ab aab", false, true), ElementsAre(0, 4, 2, 4));
}

TEST(TokenizerJsonTest, UnknownCharactersAreOneTokenEachOrOneForAll) {
  nlohmann::json file = SmallFile();
  EXPECT_THAT(MustLoad(file)->Encode("axyb", false, false), ElementsAre(2, 1, 1, 3));
  file["model"]["fuse_unk"] = true;
  EXPECT_THAT(MustLoad(file)->Encode("axyb", false, false), ElementsAre(2, 1, 3));
  file["model"]["unk_token"] = nullptr;
  EXPECT_THAT(MustLoad(file)->Encode("axyb", false, false), ElementsAre(4));
}

TEST(TokenizerJsonTest, IdsThatNothingHasStandForNothing) {
  const auto tokenizer = MustLoad(SmallFile());
  ASSERT_EQ(tokenizer->vocab_size(), 10);
  for (int32_t hole = 5; hole < 9; ++hole) EXPECT_EQ(tokenizer->TokenBytes(hole, true), "");
  EXPECT_THAT(tokenizer->Encode("a<t>b", false, false), ElementsAre(2, 9, 3));
}

TEST(TokenizerJsonTest, OrdinaryTextNeverMergesIntoAControlToken) {
  nlohmann::json file = SmallFile();
  file["added_tokens"].push_back({{"id", 4}, {"content", "ab"}, {"special", true}});
  EXPECT_THAT(MustLoad(file)->Encode("ab", /*parse_special=*/true, false), ElementsAre(4));
  EXPECT_THAT(MustLoad(file)->Encode("ab", /*parse_special=*/false, false), ElementsAre(2, 3));
}

struct BrokenFile {
  const char* name;
  std::function<void(nlohmann::json&)> edit;
  absl::StatusCode code;
  const char* message;
};

class BrokenTokenizerJsonTest : public testing::TestWithParam<BrokenFile> {};

TEST_P(BrokenTokenizerJsonTest, IsRefusedNamingTheKey) {
  nlohmann::json file = SmallFile();
  GetParam().edit(file);
  const auto vocabulary = ReadTokenizerJson(file.dump());
  ASSERT_EQ(vocabulary.status().code(), GetParam().code) << vocabulary.status();
  EXPECT_THAT(vocabulary.status().message(), HasSubstr(GetParam().message));
}

using Json = nlohmann::json;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

Json Nested(int depth, const char* list) {
  Json step = {{"type", "NFC"}};
  for (int i = 0; i < depth; ++i) step = {{"type", "Sequence"}, {list, Json::array({step})}};
  return step;
}

INSTANTIATE_TEST_SUITE_P(
    All, BrokenTokenizerJsonTest,
    testing::Values(
        BrokenFile{"Array", [](Json& f) { f = Json::array(); }, kInvalid, "tokenizer.json"},
        BrokenFile{"NoModel", [](Json& f) { f.erase("model"); }, kInvalid, "model.vocab"},
        BrokenFile{"CharacterMap",
                   [](Json& f) {
                     f["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", "!"}};
                   },
                   kInvalid, "is no base64"},
        BrokenFile{"CharacterMapWithoutATrie",
                   [](Json& f) {
                     f["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", "AAAA"}};
                   },
                   kInvalid, "has a trie that does not fit"},
        BrokenFile{
            "TwoCharacterMaps",
            [](Json& f) {
              // A trie of one unit, which maps nothing, and an empty text. "" is no map.
              const Json map = {{"type", "Precompiled"}, {"precompiled_charsmap", "BAAAAAAAAAAA"}};
              const Json none = {{"type", "Precompiled"}, {"precompiled_charsmap", ""}};
              f["normalizer"] = {{"type", "Sequence"},
                                 {"normalizers", Json::array({none, map, map})}};
            },
            kInvalid, "normalizers[2].precompiled_charsmap is a second map"},
        BrokenFile{"UnknownModel", [](Json& f) { f["model"]["type"] = "WordPiece"; },
                   kUnimplemented, "'WordPiece'"},
        BrokenFile{"NoVocabulary", [](Json& f) { f["model"]["vocab"] = Json::array(); }, kInvalid,
                   "model.vocab is no object"},
        BrokenFile{"EmptyVocabulary",
                   [](Json& f) {
                     f["model"]["vocab"] = Json::object();
                     f["added_tokens"] = Json::array();
                   },
                   kInvalid, "model.vocab is empty"},
        BrokenFile{"HugeId", [](Json& f) { f["model"]["vocab"]["a"] = 2000000000; }, kInvalid,
                   "vocab['a'] is 2000000000"},
        BrokenFile{"HugerId", [](Json& f) { f["model"]["vocab"]["a"] = UINT64_MAX; }, kInvalid,
                   "vocab['a']"},
        BrokenFile{"NegativeId", [](Json& f) { f["model"]["vocab"]["a"] = -1; }, kInvalid,
                   "vocab['a']"},
        BrokenFile{"IdOfNoNumber", [](Json& f) { f["model"]["vocab"]["a"] = "2"; }, kInvalid,
                   "vocab['a']"},
        BrokenFile{"IdTwice", [](Json& f) { f["model"]["vocab"]["a"] = 3; }, kInvalid, "is 3, as"},
        BrokenFile{"AddedIdOfAnother", [](Json& f) { f["added_tokens"][0]["id"] = 2; }, kInvalid,
                   "added_tokens[0].id is 2"},
        BrokenFile{"AddedIdTaken", [](Json& f) { f["added_tokens"][1]["id"] = 2; }, kInvalid,
                   "added_tokens[1].id is 2, as 'a' is"},
        BrokenFile{"AddedIdHuge", [](Json& f) { f["added_tokens"][1]["id"] = 1 << 30; }, kInvalid,
                   "added_tokens[1].id"},
        BrokenFile{"AddedWithoutContent", [](Json& f) { f["added_tokens"][1].erase("content"); },
                   kInvalid, "added_tokens[1].content"},
        BrokenFile{"MarkOfNoBool", [](Json& f) { f["added_tokens"][1]["lstrip"] = 1; }, kInvalid,
                   "added_tokens[1].lstrip"},
        BrokenFile{"MergesMissing", [](Json& f) { f["model"].erase("merges"); }, kInvalid,
                   "model.merges"},
        BrokenFile{"MergeOfThree", [](Json& f) { f["model"]["merges"] = Json::array({"a b c"}); },
                   kInvalid, "model.merges[0]"},
        BrokenFile{"MergeOfNumbers",
                   [](Json& f) {
                     f["model"]["merges"] = Json::array({Json::array({1, 2})});
                   },
                   kInvalid, "model.merges[0]"},
        BrokenFile{"MergeOfNoToken", [](Json& f) { f["model"]["merges"] = Json::array({"b a"}); },
                   kInvalid, "model.merges[0]"},
        BrokenFile{"UnknownTokenMissing", [](Json& f) { f["model"]["unk_token"] = "x"; }, kInvalid,
                   "model.unk_token"},
        BrokenFile{"Prefix", [](Json& f) { f["model"]["continuing_subword_prefix"] = "##"; },
                   kUnimplemented, "continuing_subword_prefix"},
        BrokenFile{"Dropout", [](Json& f) { f["model"]["dropout"] = 0.5; }, kUnimplemented,
                   "dropout"},
        BrokenFile{"UnknownNormalizer",
                   [](Json& f) {
                     f["normalizer"] = {{"type", "Nmt"}};
                   },
                   kUnimplemented, "normalizer is of the type 'Nmt'"},
        BrokenFile{"UntypedNormalizer", [](Json& f) { f["normalizer"] = Json::object(); }, kInvalid,
                   "normalizer.type"},
        BrokenFile{"DeepNormalizer", [](Json& f) { f["normalizer"] = Nested(200, "normalizers"); },
                   kInvalid, "too many others"},
        BrokenFile{"NoSequence",
                   [](Json& f) {
                     f["normalizer"] = {{"type", "Sequence"}};
                   },
                   kInvalid, "normalizer.normalizers"},
        BrokenFile{"ReplaceOfNothing",
                   [](Json& f) {
                     f["normalizer"] = {
                         {"type", "Replace"}, {"pattern", {{"String", ""}}}, {"content", "x"}};
                   },
                   kInvalid, "normalizer.pattern.String is empty"},
        BrokenFile{"DoublingReplacements",
                   [](Json& f) {
                     const Json step = {
                         {"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}};
                     f["normalizer"] = {
                         {"type", "Sequence"},
                         {"normalizers", Json::array({step, step, step, step, step})}};
                   },
                   kInvalid, "normalizers[4] would make texts more than 16 times as long"},
        BrokenFile{"ManySteps",
                   [](Json& f) {
                     f["pre_tokenizer"] = {
                         {"type", "Sequence"},
                         {"pretokenizers", std::vector<Json>(65, {{"type", "Digits"}})}};
                   },
                   kInvalid, "pretokenizers[64] is step 65"},
        BrokenFile{"UnknownPretokenizer",
                   [](Json& f) {
                     f["pre_tokenizer"] = {{"type", "BertPreTokenizer"}};
                   },
                   kUnimplemented, "BertPreTokenizer"},
        BrokenFile{"BrokenExpression",
                   [](Json& f) {
                     f["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "(("}}}};
                   },
                   kInvalid, "pattern.Regex is not understood"},
        BrokenFile{"LongExpression",
                   [](Json& f) {
                     f["pre_tokenizer"] = {{"type", "Split"},
                                           {"pattern", {{"Regex", std::string(5000, 'a')}}}};
                   },
                   kInvalid, "more than 4096"},
        BrokenFile{"UnknownBehavior",
                   [](Json& f) {
                     f["pre_tokenizer"] = {{"type", "Punctuation"}, {"behavior", "Doubled"}};
                   },
                   kInvalid, "'Doubled'"},
        BrokenFile{"BytesThatAreNotDecoded",
                   [](Json& f) {
                     f["pre_tokenizer"] = {{"type", "ByteLevel"}};
                   },
                   kUnimplemented, "decoder"},
        BrokenFile{"NoDecoder", [](Json& f) { f["decoder"] = nullptr; }, kUnimplemented,
                   "decoder is missing"},
        BrokenFile{"UnknownDecoder",
                   [](Json& f) {
                     f["decoder"] = {{"type", "CTC"}};
                   },
                   kUnimplemented, "CTC"},
        BrokenFile{"StripsMore",
                   [](Json& f) {
                     f["decoder"] = {
                         {"type", "Sequence"},
                         {"decoders",
                          Json::array(
                              {{{"type", "Fuse"}},
                               {{"type", "Strip"}, {"content", " "}, {"start", 2}, {"stop", 0}}})}};
                   },
                   kUnimplemented, "Strip"},
        BrokenFile{"UnknownPostProcessor",
                   [](Json& f) {
                     f["post_processor"] = {{"type", "BertProcessing"}};
                   },
                   kUnimplemented, "BertProcessing"},
        BrokenFile{"PrefixOutside",
                   [](Json& f) {
                     f["post_processor"]["special_tokens"]["<s>"]["ids"] = Json::array({10});
                   },
                   kInvalid, "ids[0] is not in the vocabulary"},
        BrokenFile{"PrefixWithoutIds",
                   [](Json& f) { f["post_processor"]["special_tokens"] = Json::object(); },
                   kInvalid, "ids is missing"}),
    [](const auto& info) { return info.param.name; });

TEST(BrokenTokenizerJsonTest, EveryTruncationIsRefusedOrReadAsAWhole) {
  const std::string file = SmallFile().dump();
  for (size_t size = 0; size < file.size(); ++size) {
    EXPECT_FALSE(ReadTokenizerJson(std::string_view(file).substr(0, size)).ok());
  }
}

TEST(BrokenTokenizerJsonTest, AValueOfAnotherTypeIsRefusedOrIgnoredWhereverItStands) {
  const Json file = SmallFile();
  const Json places = file.flatten();
  for (const auto& [place, value] : places.items()) {
    for (const Json& other : {Json(), Json(7), Json("x"), Json(-1.5), Json::array({Json::array()}),
                              Json::object({{"type", "Sequence"}})}) {
      Json broken = file;
      broken[Json::json_pointer(place)] = other;
      const auto vocabulary = ReadTokenizerJson(broken.dump());
      if (!vocabulary.ok()) continue;
      Tokenizer::Create(*vocabulary)->Encode("ab <s><t> \u00e9", true, true);
    }
  }
}

}  // namespace
}  // namespace winnow

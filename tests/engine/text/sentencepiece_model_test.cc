// tokenizer.model files against SentencePiece (tests/golden/README.md), and files that are broken.

#include "engine/text/sentencepiece_model.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "engine/text/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/text/digest.h"
#include "tests/engine/text/golden.h"
#include "tests/engine/text/utf8.h"
#include "tests/engine/text/vocabulary_file.h"
#include "tests/engine/text/wire_writer.h"

namespace winnow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Ids = std::vector<int32_t>;

class SentencePieceGoldenTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    std::string bytes;
    ASSERT_TRUE(absl::Base64Unescape(model_["model"].get<std::string>(), &bytes));
    const auto vocabulary = ReadSentencePieceModel(bytes);
    ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
    unknown_ = vocabulary->unknown_token;
    tokenizer_ = Tokenizer::Create(*vocabulary);
  }

  const nlohmann::json golden_ = LoadGolden("tokenizer_model.json");
  const nlohmann::json& model_ = golden_["models"][GetParam()];
  const nlohmann::json shared_ = LoadGolden("tokenizer_json.json");
  const std::vector<std::string> texts_ = shared_["texts"];
  const size_t batch_ = shared_["batch"];
  std::unique_ptr<Tokenizer> tokenizer_;
  int32_t unknown_ = -1;
};

TEST_P(SentencePieceGoldenTest, EncodesAndDecodesAsSentencePiece) {
  SCOPED_TRACE(model_["name"]);
  for (size_t i = 0; i < model_["tokens"].size(); ++i) {
    EXPECT_EQ(tokenizer_->Encode(texts_[i], /*parse_special=*/false, false),
              model_["tokens"][i].get<Ids>())
        << nlohmann::json(texts_[i]);
  }
  for (size_t i = 0; i < texts_.size(); i += batch_) {
    Digest tokens, decoded;
    for (size_t j = i; j < std::min(i + batch_, texts_.size()); ++j) {
      Ids ids = tokenizer_->Encode(texts_[j], /*parse_special=*/false, false);
      tokens.Add(ids);
      // SentencePiece shows unknown characters as " ⁇ ", which is not text, and drops marks of
      // spaces that a text itself begins with.
      if (std::ranges::count(ids, unknown_) > 0 || texts_[j].find("▁▁") != std::string::npos) {
        ids.clear();
      }
      const std::string text = Decode(*tokenizer_, ids);
      decoded.Add(std::vector<unsigned char>(text.begin(), text.end()));
    }
    EXPECT_EQ(tokens.Text(), model_["token_digests"][i / batch_].get<std::string>())
        << "texts from " << i << ", " << nlohmann::json(texts_[i]);
    EXPECT_EQ(decoded.Text(), model_["decoded_digests"][i / batch_].get<std::string>())
        << "texts from " << i << ", " << nlohmann::json(texts_[i]);
  }
}

TEST_P(SentencePieceGoldenTest, ATextOfAMegabyteWithoutASpaceIsEncodedInMoments) {
  for (const char* piece : {"a", "ab", "\u6F22", "\xff"}) {
    std::string text;
    while (text.size() < 1 << 20) text += piece;
    // Maps make characters of 3 bytes of what is not UTF-8.
    EXPECT_LE(tokenizer_->Encode(text, true, false).size(), 3 * text.size() + 3);
  }
}

TEST_P(SentencePieceGoldenTest, NoTextHasFewerTokensThanItsBytesPromise) {
  std::mt19937 rng(5);
  for (int i = 0; i < 500; ++i) {
    const TextSegment segment = {RandomText(rng, 60), /*parse_special=*/true};
    ASSERT_LE(tokenizer_->LeastTokens({&segment, 1}),
              tokenizer_->Encode(segment.text, true, false).size());
  }
}

INSTANTIATE_TEST_SUITE_P(All, SentencePieceGoldenTest, testing::Range(0, 6));

/// Pieces "<unk>", "<s>", "</s>", "▁", "a", "▁a" of a unigram model.
WireWriter SmallModel() {
  WireWriter model;
  const auto add = [&model](const std::string& piece, float score, uint64_t type) {
    model.Message(1, WireWriter().Bytes(1, piece).Float(2, score).Varint(3, type));
  };
  add("<unk>", 0, 2);
  add("<s>", 0, 3);
  add("</s>", 0, 3);
  add("\u2581", -2, 1);
  add("a", -2, 1);
  add("\u2581a", -3, 1);
  return model;
}

TEST(SentencePieceModelTest, TheBestDivisionIsTheOneWithTheGreatestSum) {
  const auto vocabulary = ReadSentencePieceModel(SmallModel().bytes());
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  const auto tokenizer = Tokenizer::Create(*vocabulary);
  EXPECT_THAT(tokenizer->Encode(" a  aab ", false, true), ElementsAre(1, 5, 5, 4, 0));
  EXPECT_EQ(Decode(*tokenizer, {5, 5}), "a a");
}

struct BrokenModel {
  const char* name;
  WireWriter (*edit)(WireWriter model);
  absl::StatusCode code;
  const char* message;
};

class BrokenSentencePieceModelTest : public testing::TestWithParam<BrokenModel> {};

TEST_P(BrokenSentencePieceModelTest, IsRefusedSayingWhy) {
  const auto vocabulary = ReadSentencePieceModel(GetParam().edit(SmallModel()).bytes());
  ASSERT_EQ(vocabulary.status().code(), GetParam().code) << vocabulary.status();
  EXPECT_THAT(vocabulary.status().message(), HasSubstr(GetParam().message));
}

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

INSTANTIATE_TEST_SUITE_P(
    All, BrokenSentencePieceModelTest,
    testing::Values(
        BrokenModel{"Empty", [](WireWriter) { return WireWriter(); }, kInvalid, "is no model"},
        BrokenModel{"Group", [](WireWriter m) { return m.Raw("\x0b"); }, kInvalid, "is no model"},
        BrokenModel{"Long", [](WireWriter m) { return m.Raw("\x0a\x7f"); }, kInvalid,
                    "is no model"},
        BrokenModel{"Endless", [](WireWriter m) { return m.Raw(std::string(20, '\xff')); },
                    kInvalid, "is no model"},
        BrokenModel{"BrokenPiece", [](WireWriter m) { return m.Bytes(1, "\x0a\x7f"); }, kInvalid,
                    "a broken piece at 6"},
        BrokenModel{"UnknownType",
                    [](WireWriter m) { return m.Message(1, WireWriter().Varint(3, 7)); }, kInvalid,
                    "the unknown type 7"},
        BrokenModel{"Score",
                    [](WireWriter m) {
                      return m.Message(1, WireWriter().Bytes(1, "x").Float(2, 1e38f * 10));
                    },
                    kInvalid, "a score without end"},
        BrokenModel{
            "BytePiece",
            [](WireWriter m) { return m.Message(1, WireWriter().Bytes(1, "x").Varint(3, 6)); },
            kInvalid, "byte piece 6"},
        BrokenModel{"BosOutside",
                    [](WireWriter m) { return m.Message(2, WireWriter().Varint(41, 6)); }, kInvalid,
                    "names token 6"},
        BrokenModel{"WordModel",
                    [](WireWriter m) { return m.Message(2, WireWriter().Varint(3, 3)); },
                    kUnimplemented, "model type 3"},
        BrokenModel{"CharacterMap",
                    [](WireWriter m) { return m.Message(3, WireWriter().Bytes(2, "x")); }, kInvalid,
                    "has a precompiled_charsmap that has a trie that does not fit"},
        BrokenModel{"CharacterMapBesideUserDefinedPieces",
                    [](WireWriter m) {
                      const std::string map("\4\0\0\0\0\0\0\0\0", 9);
                      return m.Message(1, WireWriter().Bytes(1, "b").Varint(3, 4))
                          .Message(3, WireWriter().Bytes(2, map));
                    },
                    kUnimplemented, "beside user-defined pieces"},
        BrokenModel{"Suffix", [](WireWriter m) { return m.Message(2, WireWriter().Varint(24, 1)); },
                    kUnimplemented, "spaces behind words"},
        BrokenModel{"Spaces", [](WireWriter m) { return m.Message(3, WireWriter().Varint(5, 0)); },
                    kUnimplemented, "spaces behind words"}),
    [](const auto& info) { return info.param.name; });

TEST(BrokenSentencePieceModelTest, AnyTruncationAndAnyByteIsRefusedOrEncodesText) {
  const std::string bytes = SmallModel().bytes();
  const auto check = [](const std::string& broken) {
    const auto vocabulary = ReadSentencePieceModel(broken);
    if (vocabulary.ok()) Tokenizer::Create(*vocabulary)->Encode("a \xff b", true, true);
  };
  for (size_t i = 0; i < bytes.size(); ++i) {
    check(bytes.substr(0, i));
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = bytes;
      flipped[i] = static_cast<char>(flipped[i] ^ (1 << bit));
      check(flipped);
    }
  }
}

}  // namespace
}  // namespace winnow

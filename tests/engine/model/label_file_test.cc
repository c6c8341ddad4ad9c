#include "engine/model/label_file.h"

#include <filesystem>
#include <functional>
#include <random>
#include <string>

#include "engine/model/fingerprint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/float16.h"
#include "nlohmann/json.hpp"
#include "tests/engine/calibration/random_tiny_model.h"

namespace winnow {
namespace {

using test::RandomTinyModel;
using testing::HasSubstr;
using Json = nlohmann::ordered_json;

constexpr int kWidth = 8;

// Numbers that fp16 holds exactly.
std::vector<float> Halves(int count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = HalfToFloat(FloatToHalf(normal(random)));
  return values;
}

LabelFile ProjectionFile(const RandomTinyModel& model) {
  std::mt19937 random(1);
  LabelFile file;
  file.architecture = model.config.architecture;
  file.model_name = model.config.name;
  file.model_fingerprint = ModelFingerprint(*model.checkpoint);
  file.kv_heads = model.config.kv_heads;
  file.head_dim = model.config.head_dim;
  file.width = kWidth;
  file.basis = "projection";
  file.text_hash = "0123456789abcdef";
  file.calibrated_context = 128;
  file.budget_sparsity = 16;
  file.budget_weights = {0.5f, 1.5f};
  for (int l = 0; l < model.config.layers; ++l) {
    LabelFile::Layer layer;
    layer.query = Halves(file.kv_heads * file.head_dim * kWidth, random);
    layer.key = Halves(file.kv_heads * file.head_dim * kWidth, random);
    layer.low = Halves(file.kv_heads * kWidth, random);
    for (const float low : layer.low) layer.high.push_back(HalfToFloat(FloatToHalf(low + 3)));
    file.layers.push_back(std::move(layer));
  }
  return file;
}

LabelFile FileWithTail(const RandomTinyModel& model) {
  LabelFile file = ProjectionFile(model);
  file.tail_weights = {0, 0.875f};
  return file;
}

/// A model whose first layer has a sliding window, and its file.
RandomTinyModel WindowedModel() {
  TinyModel tiny("llama");
  tiny.ints["llama.attention.sliding_window"] = 64;
  tiny.int_arrays["llama.attention.sliding_window_pattern"] = {1, 0};
  return RandomTinyModel(3, tiny, 0.5f);
}

LabelFile WindowedFile(const RandomTinyModel& model) {
  LabelFile file = ProjectionFile(model);
  file.layers[0] = {};
  return file;
}

LabelFile ChannelsFile(const RandomTinyModel& model) {
  LabelFile file = ProjectionFile(model);
  file.basis = "channels";
  file.ranking = "qk-centred";
  int l = 0;
  for (LabelFile::Layer& layer : file.layers) {
    layer.query.assign(layer.query.size(), 0);
    for (int j = 0; j < kWidth; ++j) layer.query[(15 - j - l) * kWidth + j] = 1;
    layer.key = layer.query;
    ++l;
  }
  return file;
}

// The file's JSON text as written.
std::string Written(const LabelFile& file) {
  const TemporaryFile temporary({});
  EXPECT_TRUE(file.Write(temporary.path()).ok());
  std::ifstream stream(temporary.path());
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

absl::StatusOr<LabelFile> ReadText(const std::string& text, const RandomTinyModel& model) {
  const TemporaryFile temporary(std::as_bytes(std::span(text)));
  return LabelFile::Read(temporary.path(), *model.checkpoint);
}

void ExpectEqual(const LabelFile& read, const LabelFile& written) {
  EXPECT_EQ(read.architecture, written.architecture);
  EXPECT_EQ(read.model_name, written.model_name);
  EXPECT_EQ(read.model_fingerprint, written.model_fingerprint);
  EXPECT_EQ(read.kv_heads, written.kv_heads);
  EXPECT_EQ(read.head_dim, written.head_dim);
  EXPECT_EQ(read.width, written.width);
  EXPECT_EQ(read.basis, written.basis);
  EXPECT_EQ(read.ranking, written.ranking);
  EXPECT_EQ(read.text_hash, written.text_hash);
  EXPECT_EQ(read.calibrated_context, written.calibrated_context);
  EXPECT_EQ(read.budget_sparsity, written.budget_sparsity);
  EXPECT_EQ(read.budget_weights, written.budget_weights);
  EXPECT_EQ(read.tail_weights, written.tail_weights);
  ASSERT_EQ(read.layers.size(), written.layers.size());
  for (size_t l = 0; l < read.layers.size(); ++l) {
    EXPECT_EQ(read.layers[l].query, written.layers[l].query);
    EXPECT_EQ(read.layers[l].key, written.layers[l].key);
    EXPECT_EQ(read.layers[l].low, written.layers[l].low);
    EXPECT_EQ(read.layers[l].high, written.layers[l].high);
  }
}

TEST(LabelFileTest, AProjectionIsReadAsItWasWritten) {
  const RandomTinyModel model(7);
  const LabelFile file = ProjectionFile(model);
  const auto read = ReadText(Written(file), model);
  ASSERT_TRUE(read.ok()) << read.status();
  ExpectEqual(*read, file);
}

TEST(LabelFileTest, TailWeightsMakeVersion2) {
  const RandomTinyModel model(7);
  const LabelFile file = FileWithTail(model);
  const std::string text = Written(file);
  EXPECT_EQ(Json::parse(text)["version"], 2);
  EXPECT_EQ(Json::parse(text)["tail_weights"], Json::parse("[[0.0],[0.875]]"));
  const auto read = ReadText(text, model);
  ASSERT_TRUE(read.ok()) << read.status();
  ExpectEqual(*read, file);
}

TEST(LabelFileTest, FilesOfVersion1HaveNoTailWeights) {
  const RandomTinyModel model(7);
  Json json = Json::parse(Written(ProjectionFile(model)));
  EXPECT_EQ(json["version"], 1);
  EXPECT_FALSE(json.contains("tail_weights"));
  json["tail_weights"] = {{1.0}, {1.0}};  // a member that version 1 does not have
  const auto read = ReadText(json.dump(), model);
  ASSERT_TRUE(read.ok()) << read.status();
  ExpectEqual(*read, ProjectionFile(model));
}

TEST(LabelFileTest, ChannelsAreReadAsTheOneHotMatricesThatWereWritten) {
  const RandomTinyModel model(7);
  const LabelFile file = ChannelsFile(model);
  const std::string text = Written(file);
  EXPECT_EQ(Json::parse(text)["layers"][1]["channels"], Json::parse("[[14,13,12,11,10,9,8,7]]"));
  const auto read = ReadText(text, model);
  ASSERT_TRUE(read.ok()) << read.status();
  ExpectEqual(*read, file);
}

TEST(LabelFileTest, LayersWithASlidingWindowAreNull) {
  const RandomTinyModel model = WindowedModel();
  const LabelFile file = WindowedFile(model);
  const std::string text = Written(file);
  Json json = Json::parse(text);
  EXPECT_TRUE(json["layers"][0].is_null());
  const auto read = ReadText(text, model);
  ASSERT_TRUE(read.ok()) << read.status();
  ExpectEqual(*read, file);

  const auto refusal = [&](int layer, const Json& entry) {
    Json changed = json;
    changed["layers"][layer] = entry;
    const absl::Status status = ReadText(changed.dump(), model).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(refusal(0, json["layers"][1]), HasSubstr("layers[0] is not null"));
  EXPECT_THAT(refusal(1, nullptr), HasSubstr("layers[1] is null"));
}

TEST(LabelFileTest, MatricesAreLittleEndianHalves) {
  const RandomTinyModel model(7);
  LabelFile file = ProjectionFile(model);
  file.layers[0].query.assign(file.layers[0].query.size(), 0);
  file.layers[0].query[0] = 1;     // 0x3c00
  file.layers[0].query[1] = -2.5;  // 0xc100
  const std::string text = Json::parse(Written(file))["layers"][0]["query"];
  EXPECT_EQ(text.substr(0, 8), "ADwAwQAA");
}

TEST(LabelFileTest, NumbersThatFp16CannotHoldAreNotWritten) {
  const RandomTinyModel model(7);
  LabelFile file = ProjectionFile(model);
  file.layers[1].key[3] = 1e6f;
  const TemporaryFile temporary({});
  EXPECT_EQ(file.Write(temporary.path()).code(), absl::StatusCode::kInvalidArgument);
}

TEST(LabelFileTest, AMissingFileIsNotFound) {
  const RandomTinyModel model(7);
  const auto read = LabelFile::Read("/nonexistent/labels.json", *model.checkpoint);
  EXPECT_EQ(read.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(read.status().message()), HasSubstr("/nonexistent/labels.json"));
  const auto folder =
      LabelFile::Read(std::filesystem::temp_directory_path().string(), *model.checkpoint);
  EXPECT_EQ(folder.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(LabelFileTest, AFileOfAnotherModelIsRefusedWithTheReason) {
  const RandomTinyModel model(7);
  const RandomTinyModel other(8);
  ASSERT_NE(ModelFingerprint(*model.checkpoint), ModelFingerprint(*other.checkpoint));
  const auto read = ReadText(Written(ProjectionFile(model)), other);
  EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(read.status().message()), HasSubstr("fingerprint"));
}

TEST(LabelFileTest, TheFingerprintSeesRopeAndBiases) {
  const RandomTinyModel model(7);
  TinyModel tiny("llama");
  const auto fingerprint = [&] {
    const TemporaryFile file(tiny.Write().Bytes());
    const auto checkpoint = Checkpoint::Open(file.path());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    return ModelFingerprint(**checkpoint);
  };
  const std::string plain = fingerprint();
  EXPECT_EQ(plain.size(), 16u);
  EXPECT_EQ(fingerprint(), plain);
  tiny.values["blk.0.ffn_down.weight"].assign(32 * 64, 1);
  EXPECT_EQ(fingerprint(), plain);
  tiny.floats["llama.rope.freq_base"] = 500000;
  EXPECT_NE(fingerprint(), plain);
}

TEST(LabelFileTest, TheFingerprintTellsLongFromShortContextsOfLongrope) {
  TinyModel tiny = TinyModel::Of("phi3");
  tiny.ints["phi3.rope.scaling.original_context_length"] = 32;
  for (const char* name : {"rope_factors_short.weight", "rope_factors_long.weight"}) {
    tiny.shapes[name] = {8};
    tiny.values[name].assign(8, name[13] == 's' ? 1.0f : 2.0f);
  }
  const TemporaryFile file(tiny.Write().Bytes());
  const auto fingerprint = [&](int context) {
    const auto checkpoint = Checkpoint::Open(file.path(), context);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    return ModelFingerprint(**checkpoint);
  };
  EXPECT_EQ(fingerprint(33), fingerprint(0));
  EXPECT_NE(fingerprint(32), fingerprint(33));
}

struct Refusal {
  const char* name;
  std::function<void(Json&)> change;
  const char* reason;
};

class LabelFileRefusalTest : public testing::TestWithParam<Refusal> {};

TEST_P(LabelFileRefusalTest, IsOneSentenceWithTheReason) {
  const RandomTinyModel model(7);
  Json json = Json::parse(Written(FileWithTail(model)));
  GetParam().change(json);
  const auto read = ReadText(json.dump(), model);
  ASSERT_FALSE(read.ok());
  EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message(read.status().message());
  EXPECT_THAT(message, HasSubstr(GetParam().reason));
  EXPECT_EQ(message.find('\n'), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(
    Each, LabelFileRefusalTest,
    testing::Values(
        Refusal{"NoObject",
                [](Json& j) {
                  j = Json::array({1, 2});
                },
                "not a JSON object"},
        Refusal{"OtherFormat", [](Json& j) { j["format"] = "gguf"; }, "format"},
        Refusal{"OtherVersion", [](Json& j) { j["version"] = 3; },
                "version is 3; the highest known is 2"},
        Refusal{"MissingMember", [](Json& j) { j.erase("width"); }, "width is missing"},
        Refusal{"Architecture", [](Json& j) { j["architecture"] = "qwen2"; },
                "architecture is qwen2; this model's is llama"},
        Refusal{"LayerCount", [](Json& j) { j["layer_count"] = 3; },
                "number of layers is 3; this model's is 2"},
        Refusal{"KvHeads", [](Json& j) { j["kv_heads"] = 2; }, "number of KV heads is 2"},
        Refusal{"HeadSize", [](Json& j) { j["head_dim"] = 32; }, "head size is 32"},
        Refusal{"WidthOfNoWholeWord", [](Json& j) { j["width"] = 12; }, "multiple of 8"},
        Refusal{"WidthAboveHeadSize", [](Json& j) { j["width"] = 24; }, "width"},
        Refusal{"HugeWidth", [](Json& j) { j["width"] = 1e300; }, "width"},
        Refusal{"NegativeWidth", [](Json& j) { j["width"] = -8; }, "width"},
        Refusal{"FractionalWidth", [](Json& j) { j["width"] = 8.5; }, "width"},
        Refusal{"WidthAsText", [](Json& j) { j["width"] = "8"; }, "width"},
        Refusal{"UnknownBasis", [](Json& j) { j["basis"] = "magic"; }, "basis"},
        Refusal{"BasisAsNumber", [](Json& j) { j["basis"] = 1; }, "basis is not a string"},
        Refusal{"ChannelsWithoutLists", [](Json& j) { j["basis"] = "channels"; },
                "layers[0].channels is missing"},
        Refusal{"TooFewLayers", [](Json& j) { j["layers"].erase(1); }, "layers"},
        Refusal{"LayerOfAnotherType", [](Json& j) { j["layers"][1] = 5; },
                "layers[1] is not an object"},
        Refusal{"NoBase64", [](Json& j) { j["layers"][0]["key"] = "!!"; },
                "layers[0].key is not base64"},
        Refusal{"ShortMatrix", [](Json& j) { j["layers"][0]["query"] = "ADwAwQAA"; },
                "layers[0].query holds 6 bytes instead of 256"},
        Refusal{"NanInMatrix",
                [](Json& j) {
                  std::string text = j["layers"][1]["key"];
                  j["layers"][1]["key"] = "AH4A" + text.substr(4);  // 0x7e00
                },
                "layers[1].key holds a number that is not finite"},
        Refusal{"RangeOfAnotherShape", [](Json& j) { j["layers"][0]["low"][0].erase(0); },
                "layers[0].low"},
        Refusal{"HugeRange", [](Json& j) { j["layers"][0]["high"][0][0] = 1e30; },
                "layers[0].high"},
        Refusal{"NullRange", [](Json& j) { j["layers"][0]["high"][0][0] = nullptr; },
                "layers[0].high"},
        Refusal{"EmptyRange",
                [](Json& j) { j["layers"][0]["high"][0][0] = j["layers"][0]["low"][0][0]; },
                "layers[0].low holds a number that is not below"},
        Refusal{"NegativeWeight", [](Json& j) { j["budget_weights"][0][0] = -1; },
                "budget_weights"},
        Refusal{"WeightsOfAnotherShape", [](Json& j) { j["budget_weights"][0].push_back(1); },
                "budget_weights"},
        Refusal{"NoTailWeights", [](Json& j) { j.erase("tail_weights"); },
                "tail_weights is missing"},
        Refusal{"NegativeTailWeight", [](Json& j) { j["tail_weights"][0][0] = -0.001; },
                "tail_weights is not an array of 2 arrays of 1 numbers from 0 to 1"},
        Refusal{"TailWeightAbove1", [](Json& j) { j["tail_weights"][1][0] = 1.001; },
                "tail_weights"},
        Refusal{"TailWeightOfNoNumber", [](Json& j) { j["tail_weights"][1][0] = nullptr; },
                "tail_weights"},
        Refusal{"TailWeightAsText", [](Json& j) { j["tail_weights"][1][0] = "1"; }, "tail_weights"},
        Refusal{"TailWeightsOfTooFewLayers", [](Json& j) { j["tail_weights"].erase(1); },
                "tail_weights"},
        Refusal{"TailWeightsOfAnotherShape", [](Json& j) { j["tail_weights"][0].push_back(1); },
                "tail_weights"},
        Refusal{"TailWeightsOfNoArray", [](Json& j) { j["tail_weights"] = 1; }, "tail_weights"},
        Refusal{"NoContext", [](Json& j) { j["calibrated_context"] = 0; }, "calibrated_context"}),
    [](const auto& info) { return info.param.name; });

TEST(LabelFileTest, ChannelsOutOfRangeOrTwiceAreRefused) {
  const RandomTinyModel model(7);
  const Json good = Json::parse(Written(ChannelsFile(model)));
  for (const int channel : {-1, 16, 14}) {
    Json json = good;
    json["layers"][0]["channels"][0][0] = channel;
    const auto read = ReadText(json.dump(), model);
    EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument) << channel;
    EXPECT_THAT(std::string(read.status().message()), HasSubstr("layers[0].channels"));
  }
}

TEST(LabelFileTest, DeepNestingIsRefused) {
  const RandomTinyModel model(7);
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  for (const std::string member : {"architecture", "tail_weights", "another"}) {
    const auto read =
        ReadText("{\"version\": 2, \"" + member + "\": " + deep + ", \"layers\": []}", model);
    EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(read.status().message().find("nested deeper than 8 levels"), absl::string_view::npos)
        << read.status();
  }
}

TEST(LabelFileTest, TextThatIsNoJsonIsRefused) {
  const RandomTinyModel model(7);
  const std::string written = Written(ProjectionFile(model));
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("\0\xff", 2), std::string(100000, '['),
        written.substr(0, written.size() / 2)}) {
    const auto read = ReadText(text, model);
    EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace winnow

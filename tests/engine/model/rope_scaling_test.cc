#include "engine/model/rope_scaling.h"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "gtest/gtest.h"

namespace winnow {
namespace {

using Json = nlohmann::json;

RopeTable Scaled(const Json& of) {
  const std::string type = of.at("type");
  RopeTable rope = UnscaledRope(of.at("base"), of.at("dim"));
  if (type == "linear") ScaleLinear(of.at("factor"), rope);
  if (type == "llama3") {
    ScaleLlama3({.factor = of.at("factor"),
                 .low_freq_factor = of.at("low_freq_factor"),
                 .high_freq_factor = of.at("high_freq_factor"),
                 .original_context = of.at("original_context")},
                rope);
  }
  if (type == "yarn") {
    ScaleYarn({.factor = of.at("factor"),
               .original_context = of.at("original_context"),
               .beta_fast = of.value("beta_fast", 32.0),
               .beta_slow = of.value("beta_slow", 1.0),
               .truncate = of.value("truncate", true),
               .magnitude = of.value("attention_factor", 0.0)},
              rope);
  }
  if (type == "longrope") {
    ScaleLongrope({.short_factors = of.at("short_factor"),
                   .long_factors = of.at("long_factor"),
                   .original_context = of.at("original_context"),
                   .trained_context = of.at("context"),
                   .served_context = of.at("context"),
                   .magnitude = of.value("attention_factor", 0.0)},
                  rope);
  }
  return rope;
}

/// Hugging Face computes in fp32, and so to some seven digits.
TEST(RopeScalingTest, FrequenciesAndMagnitudesAreThoseOfTransformers) {
  const Json golden = Json::parse(std::ifstream("tests/golden/rope_scaling.json"));
  ASSERT_GE(golden.at("cases").size(), 14u);
  for (const Json& one : golden.at("cases")) {
    SCOPED_TRACE(one.at("name").get<std::string>());
    const RopeTable rope = Scaled(one.at("scaling"));
    const auto frequencies = one.at("frequencies").get<std::vector<double>>();
    ASSERT_EQ(rope.frequencies.size(), frequencies.size());
    for (size_t i = 0; i < frequencies.size(); ++i) {
      EXPECT_NEAR(rope.frequencies[i] / frequencies[i], 1, 2e-6) << "pair " << i;
    }
    EXPECT_NEAR(rope.magnitude, one.at("magnitude").get<double>(), 1e-6);
    EXPECT_EQ(rope.base, one.at("scaling").at("base").get<double>());
  }
}

TEST(RopeScalingTest, SaysWhatItIs) {
  RopeTable rope = UnscaledRope(1e4, 4);
  ScaleLinear(1, rope);
  EXPECT_EQ(rope.scaling, "none");
  ScaleLinear(2.5, rope);
  EXPECT_EQ(rope.scaling, "linear, 2.5");
  ScaleLlama3({.factor = 32}, rope);
  EXPECT_EQ(rope.scaling, "Llama 3, 32");
  ScaleYarn({.factor = 4, .original_context = 4096}, rope);
  EXPECT_EQ(rope.scaling, "YaRN, 4");
  LongropeScaling longrope = {.short_factors = {1, 1},
                              .long_factors = {1, 2},
                              .original_context = 4096,
                              .trained_context = 131072,
                              .served_context = 4096};
  ScaleLongrope(longrope, rope);
  EXPECT_EQ(rope.scaling, "longrope, short factors");
  longrope.served_context = 4097;
  ScaleLongrope(longrope, rope);
  EXPECT_EQ(rope.scaling, "longrope, long factors");
}

}  // namespace
}  // namespace winnow

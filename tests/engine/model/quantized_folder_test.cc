// Quantised matrices of Hugging Face folders: what the libraries that define the formats make of
// them (tests/golden/README.md, quantized.json), and what is refused.

#include "engine/model/quantized_folder.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "engine/model/checkpoint.h"
#include "engine/model/fingerprint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/model/tiny_folder.h"
#include "tests/engine/text/golden.h"

namespace winnow {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using Json = nlohmann::json;

constexpr const char* kModule = "model.layers.0.mlp.up_proj.";

std::vector<Json> Cases() { return LoadGolden("quantized.json")["cases"]; }

std::string Decoded(const Json& base64) {
  std::string bytes;
  EXPECT_TRUE(absl::Base64Unescape(base64.get<std::string>(), &bytes));
  return bytes;
}

std::map<std::string, FolderTensor> Stored(const Json& golden) {
  std::map<std::string, FolderTensor> tensors;
  for (const auto& [end, tensor] : golden["tensors"].items()) {
    tensors[kModule + end] = {tensor["dtype"], tensor["shape"], Decoded(tensor["data"])};
  }
  return tensors;
}

/// The matrices of a file of such tensors.
class Opened {
 public:
  Opened(const std::map<std::string, FolderTensor>& tensors, const Json& quantization)
      : file_(WriteSafetensors(tensors)) {
    auto parsed = ParseSafetensors(std::as_bytes(std::span(file_)));
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    for (SafetensorsTensor& tensor : *parsed) {
      std::string name = tensor.name;
      tensors_.emplace(std::move(name), std::move(tensor));
    }
    const auto config =
        ParseFolderQuantization("folder/config.json", {{"quantization_config", quantization}});
    EXPECT_TRUE(config.ok()) << config.status();
    matrices_ = OpenQuantizedMatrices("folder", *config, tensors_);
  }

  const absl::StatusOr<QuantizedMatrices>& matrices() const { return matrices_; }

 private:
  const std::string file_;
  SafetensorsMap tensors_;
  absl::StatusOr<QuantizedMatrices> matrices_;
};

TEST(QuantizedFolderTest, MatricesAreWhatTheirFormatsSay) {
  for (const Json& golden : Cases()) {
    SCOPED_TRACE(golden["name"].get<std::string>());
    const Opened opened(Stored(golden), golden["quantization_config"]);
    ASSERT_TRUE(opened.matrices().ok()) << opened.matrices().status();
    ASSERT_EQ(opened.matrices()->matrices.size(), 1u);
    const auto& [name, matrix] = *opened.matrices()->matrices.begin();
    EXPECT_EQ(name, std::string(kModule) + "weight");
    EXPECT_EQ(opened.matrices()->tensors.size(), golden["tensors"].size());
    EXPECT_EQ(golden["shape"], Json({matrix->rows(), matrix->columns()}));
    std::vector<float> widened(static_cast<size_t>(matrix->rows() * matrix->columns()));
    matrix->Widen(widened.data());
    const std::string bytes = Decoded(golden["expected"]);
    ASSERT_EQ(bytes.size(), widened.size() * sizeof(float));
    for (size_t i = 0; i < widened.size(); ++i) {
      float expected = 0;
      std::memcpy(&expected, bytes.data() + i * sizeof(float), sizeof(float));
      if (std::isnan(expected) && std::isnan(widened[i])) continue;
      ASSERT_EQ(std::bit_cast<uint32_t>(widened[i]), std::bit_cast<uint32_t>(expected))
          << i << ": " << widened[i] << " instead of " << expected;
    }
  }
}

/// Of a folder of such tensors: the sentence that refuses it.
std::string Refusal(const std::map<std::string, FolderTensor>& tensors, const Json& quantization) {
  const Opened opened(tensors, quantization);
  EXPECT_TRUE(absl::IsInvalidArgument(opened.matrices().status())) << opened.matrices().status();
  return std::string(opened.matrices().status().message());
}

FolderTensor Zeros(const std::string& type, const std::vector<int64_t>& shape) {
  int64_t bytes = type == "U8" ? 1 : type == "F16" || type == "BF16" ? 2 : 4;
  for (const int64_t size : shape) bytes *= size;
  return {type, shape, std::string(static_cast<size_t>(bytes), '\0')};
}

TEST(QuantizedFolderTest, TensorsThatDoNotFitAreRefusedByName) {
  int refused = 0;
  for (const Json& golden : Cases()) {
    const Json& config = golden["quantization_config"];
    const auto stored = Stored(golden);
    for (const auto& [name, tensor] : stored) {
      // Codes tell what the others must be, and scales of activations are not read.
      if (name.ends_with("weight") || name.ends_with("input_scale")) continue;
      SCOPED_TRACE(golden["name"].get<std::string>() + ": " + name);
      for (const FolderTensor& other : {Zeros(tensor.type, {0}), Zeros(tensor.type, {7, 3}),
                                        Zeros(tensor.type, {1, 1, 1}), Zeros("U8", tensor.shape)}) {
        auto tensors = stored;
        tensors[name] = other;
        EXPECT_THAT(Refusal(tensors, config), AllOf(HasSubstr("folder: "), HasSubstr(name)));
        ++refused;
      }
      if (name.ends_with("g_idx") && !config["desc_act"]) continue;
      auto tensors = stored;
      tensors.erase(name);
      EXPECT_THAT(Refusal(tensors, config), AllOf(HasSubstr(kModule), HasSubstr("missing")));
    }
  }
  EXPECT_GE(refused, 80);
}

TEST(QuantizedFolderTest, CodesThatAreNoMatrixOfGroupsAreRefused) {
  const std::string codes = std::string(kModule) + "qweight";
  const Json awq = {{"quant_method", "awq"}, {"bits", 4}, {"group_size", 32}};
  const Json gptq = {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 32}};
  for (const FolderTensor& tensor : {Zeros("I32", {32}), Zeros("I32", {0, 8}),
                                     Zeros("F32", {32, 8}), Zeros("I32", {1, 32, 8})}) {
    EXPECT_THAT(Refusal({{codes, tensor}}, awq), HasSubstr(codes));
    EXPECT_THAT(Refusal({{codes, tensor}}, gptq), HasSubstr(codes));
  }
  EXPECT_THAT(Refusal({{codes, Zeros("I32", {33, 1})}}, awq), HasSubstr("no groups of 32"));
  EXPECT_THAT(Refusal({{codes, Zeros("I32", {4, 12})}}, gptq), HasSubstr("multiple of 8"));
}

TEST(QuantizedFolderTest, InputsOfNoGroupAreRefused) {
  const std::string groups = std::string(kModule) + "g_idx";
  for (const Json& golden : Cases()) {
    if (golden["name"] != "gptq permuted") continue;
    for (const int32_t wrong : {-1, 3, INT32_MAX, INT32_MIN}) {
      auto tensors = Stored(golden);
      std::memcpy(tensors[groups].bytes.data() + 4 * 17, &wrong, sizeof(wrong));
      EXPECT_THAT(Refusal(tensors, golden["quantization_config"]),
                  AllOf(HasSubstr(groups), HasSubstr("at 17 the group "), HasSubstr("are 3")));
    }
  }
}

TEST(FolderQuantizationTest, WhatIsNotReadIsRefusedByItsMethod) {
  const Json float8 = {{"type", "float"}, {"num_bits", 8}, {"strategy", "channel"}};
  const auto compressed = [](const Json& group, const Json& more = Json::object()) {
    Json config = {{"quant_method", "compressed-tensors"}, {"config_groups", {{"group_0", group}}}};
    config.update(more);
    return config;
  };
  const Json int8 = {{"type", "int"}, {"num_bits", 8}, {"strategy", "channel"}};
  const Json float4 = {{"type", "float"}, {"num_bits", 4}, {"strategy", "channel"}};
  const Json groups = {{"type", "float"}, {"num_bits", 8}, {"strategy", "group"}};
  const std::pair<const char*, Json> refused[] = {
      {"bitsandbytes", {{"quant_method", "bitsandbytes"}, {"load_in_4bit", true}}},
      {"\"\"", Json::object()},
      {"fmt \"e5m2\"", {{"quant_method", "fp8"}, {"fmt", "e5m2"}}},
      {"another type", compressed({{"weights", int8}})},
      {"another type", compressed({{"weights", float4}})},
      {"strategy \"group\"", compressed({{"weights", groups}})},
      {"input_activations", compressed({{"weights", float8}, {"input_activations", int8}})},
      {"output_activations", compressed({{"weights", float8}, {"output_activations", float8}})},
      {"kv_cache_scheme", compressed({{"weights", float8}}, {{"kv_cache_scheme", float8}})},
      {"transform_config", compressed({{"weights", float8}}, {{"transform_config", {{"a", 1}}}})},
      {"sparsity_config",
       compressed({{"weights", float8}}, {{"sparsity_config", {{"format", "sparse-bitmask"}}}})},
      {"pack-quantized", compressed({{"weights", float8}}, {{"format", "pack-quantized"}})},
      {"awq is not supported with 8 bits", {{"quant_method", "awq"}, {"bits", 8}}},
      {"version \"gemv\"", {{"quant_method", "awq"}, {"bits", 4}, {"version", "gemv"}}},
      {"zero_point", {{"quant_method", "awq"}, {"bits", 4}, {"zero_point", false}}},
      {"llm-awq", {{"quant_method", "awq"}, {"bits", 4}, {"backend", "llm-awq"}}},
      {"gptq is not supported with 3 bits", {{"quant_method", "gptq"}, {"bits", 3}}},
      {"marlin", {{"quant_method", "gptq"}, {"bits", 4}, {"checkpoint_format", "marlin"}}},
      {"is_marlin_format", {{"quant_method", "gptq"}, {"bits", 4}, {"is_marlin_format", true}}}};
  for (const auto& [what, config] : refused) {
    const absl::Status status =
        ParseFolderQuantization("config.json", {{"quantization_config", config}}).status();
    EXPECT_TRUE(absl::IsUnimplemented(status)) << config << status;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("config.json: "), HasSubstr("quant_method"), HasSubstr(what)));
  }
}

TEST(FolderQuantizationTest, WrongValuesAreRefusedByTheirKey) {
  const std::pair<const char*, Json> refused[] = {
      {"quant_method", {{"quant_method", 7}}},
      {"weight_block_size", {{"quant_method", "fp8"}, {"weight_block_size", {128}}}},
      {"weight_block_size", {{"quant_method", "fp8"}, {"weight_block_size", {128, 0}}}},
      {"weight_block_size", {{"quant_method", "fp8"}, {"weight_block_size", {1.5, 128}}}},
      {"config_groups", {{"quant_method", "compressed-tensors"}}},
      {"config_groups.a",
       {{"quant_method", "compressed-tensors"}, {"config_groups", {{"a", "FP8"}}}}},
      {"bits", {{"quant_method", "gptq"}}},
      {"group_size", {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 0}}},
      {"group_size", {{"quant_method", "awq"}, {"bits", 4}, {"group_size", -2}}}};
  for (const auto& [what, config] : refused) {
    const absl::Status status =
        ParseFolderQuantization("config.json", {{"quantization_config", config}}).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << config << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(what));
  }
}

/// A folder whose queries are 8-bit floats, from a fixed row of codes.
TinyFolder Float8Folder(float scale) {
  TinyFolder tiny("llama");
  tiny.config["quantization_config"] = {{"quant_method", "fp8"}};
  std::string codes;
  for (int i = 0; i < 32 * 32; ++i) codes.push_back(static_cast<char>(i * 7 % 126));
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    tiny.tensors[layer + "self_attn.q_proj.weight"] = {"F8_E4M3", {32, 32}, codes};
    tiny.tensors[layer + "self_attn.q_proj.weight_scale"] = FolderTensor::Of("F32", {1}, {scale});
  }
  return tiny;
}

absl::StatusOr<std::string> Fingerprint(const TinyFolder& tiny) {
  const TemporaryFolder folder;
  tiny.Write(folder);
  const auto checkpoint = Checkpoint::Open(folder.path());
  if (!checkpoint.ok()) return checkpoint.status();
  return ModelFingerprint(**checkpoint);
}

TEST(QuantizedFolderTest, TheFingerprintIsOfWhatIsMeant) {
  const auto one = Fingerprint(Float8Folder(1));
  const auto other = Fingerprint(Float8Folder(0.5));
  ASSERT_TRUE(one.ok() && other.ok()) << one.status() << other.status();
  EXPECT_NE(*one, *other);
  TinyFolder halves = Float8Folder(1);
  for (auto& [name, tensor] : halves.tensors) {
    if (name.ends_with("weight_scale")) tensor = FolderTensor::Of("F16", {1, 1}, {0.5});
  }
  EXPECT_EQ(*Fingerprint(halves), *other);
}

TEST(QuantizedFolderTest, WhatTheConfigurationDoesNotSayIsRefused) {
  TinyFolder silent = Float8Folder(1);
  silent.config.erase("quantization_config");
  EXPECT_THAT(std::string(Fingerprint(silent).status().message()), HasSubstr("q_proj.weight"));

  TinyFolder scale_only = Float8Folder(1);
  scale_only.Add("model.layers.0.mlp.up_proj.weight_scale", "F32", {1});
  EXPECT_THAT(std::string(Fingerprint(scale_only).status().message()),
              HasSubstr("up_proj.weight_scale is not supported"));

  TinyFolder embedding = Float8Folder(1);
  embedding.tensors["model.embed_tokens.weight"] = {"F8_E4M3", {4, 32}, std::string(128, 'x')};
  embedding.Add("model.embed_tokens.weight_scale", "F32", {1});
  EXPECT_THAT(std::string(Fingerprint(embedding).status().message()),
              HasSubstr("embed_tokens.weight is not supported in quantised llama models"));
}

TEST(QuantizedFolderTest, BiasesOfZeroAreLeftOut) {
  TinyFolder tiny = Float8Folder(1);
  tiny.tensors["model.layers.0.mlp.up_proj.bias"] = Zeros("F16", {64});
  EXPECT_TRUE(Fingerprint(tiny).ok()) << Fingerprint(tiny).status();
  tiny.tensors["model.layers.0.mlp.up_proj.bias"].bytes[9] = 1;
  EXPECT_TRUE(absl::IsUnimplemented(Fingerprint(tiny).status()));
}

/// Llama's tiny folder with two experts in each layer.
TinyFolder ExpertsFolder() {
  TinyFolder tiny("mixtral");
  tiny.config["num_local_experts"] = 2;
  tiny.config["num_experts_per_tok"] = 1;
  std::erase_if(tiny.tensors,
                [](const auto& tensor) { return tensor.first.find(".mlp.") != std::string::npos; });
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    tiny.Add(layer + "block_sparse_moe.gate.weight", "F32", {2, 32});
    for (const std::string expert : {"0", "1"}) {
      const std::string prefix = layer + "block_sparse_moe.experts." + expert;
      tiny.Add(prefix + ".w1.weight", "F32", {64, 32});
      tiny.Add(prefix + ".w2.weight", "F32", {32, 64});
      tiny.Add(prefix + ".w3.weight", "F32", {64, 32});
    }
  }
  return tiny;
}

TEST(QuantizedFolderTest, BiasesOfExpertsAreLeftOutIfAllAreZero) {
  TinyFolder tiny = ExpertsFolder();
  const std::string first = "model.layers.0.block_sparse_moe.experts.0.w1.bias";
  const std::string second = "model.layers.0.block_sparse_moe.experts.1.w1.bias";
  tiny.tensors[first] = tiny.tensors[second] = Zeros("F16", {64});
  EXPECT_TRUE(Fingerprint(tiny).ok()) << Fingerprint(tiny).status();
  TinyFolder missing = tiny;
  missing.tensors.erase(first);
  EXPECT_FALSE(Fingerprint(missing).ok());
  tiny.tensors[second].bytes[9] = 1;
  EXPECT_FALSE(Fingerprint(tiny).ok());
}

}  // namespace
}  // namespace winnow

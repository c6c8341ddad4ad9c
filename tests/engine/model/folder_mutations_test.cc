// Folders that are broken in hundreds of ways: each is refused with one sentence, or is still a
// model.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/checkpoint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/model/tiny_folder.h"

namespace winnow {
namespace {

using testing::HasSubstr;

constexpr int kShards = 2;

/// The files of a folder that is in order, by their names.
std::map<std::string, std::string> Files() {
  const TemporaryFolder folder;
  TinyFolder("qwen2", "BF16").Write(folder, kShards);
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    std::ifstream stream(entry.path(), std::ios::binary);
    files[entry.path().filename().string()] = {std::istreambuf_iterator<char>(stream),
                                               std::istreambuf_iterator<char>()};
  }
  return files;
}

const std::string kConfig = "config.json";
const std::string kIndex = "model.safetensors.index.json";

class FolderMutationsTest : public testing::Test {
 protected:
  absl::Status Open(const std::map<std::string, std::string>& files) const {
    const TemporaryFolder folder;
    for (const auto& [name, bytes] : files) folder.Write(name, bytes);
    const absl::Status status = Checkpoint::Open(folder.path()).status();
    if (!status.ok()) ExpectSentence(status, folder.path());
    return status;
  }

  /// With another text in place of a file's.
  absl::Status OpenWith(const std::string& file, const std::string& bytes) const {
    std::map<std::string, std::string> files = files_;
    files[file] = bytes;
    return Open(files);
  }

  void ExpectRefused(const absl::Status& status, const std::string& what) {
    EXPECT_FALSE(status.ok()) << what;
    ++refused_;
  }

  static void ExpectSentence(const absl::Status& status, const std::string& folder) {
    const std::string message(status.message());
    EXPECT_TRUE(absl::IsInvalidArgument(status) || absl::IsNotFound(status) ||
                absl::IsUnimplemented(status))
        << status;
    EXPECT_THAT(message, HasSubstr(folder));
    EXPECT_EQ(message.find('\n'), std::string::npos);
    EXPECT_LT(message.size(), 1500u);
  }

  const std::map<std::string, std::string> files_ = Files();
  int refused_ = 0;
};

TEST_F(FolderMutationsTest, TheFolderIsInOrder) {
  ASSERT_EQ(files_.size(), 4u);
  const absl::Status status = Open(files_);
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(FolderMutationsTest, MissingAndTruncatedFilesAreRefused) {
  for (const auto& [name, bytes] : files_) {
    std::map<std::string, std::string> files = files_;
    files.erase(name);
    ExpectRefused(Open(files), "without " + name);
    for (const double part : {0.0, 0.01, 0.3, 0.6, 0.9}) {
      ExpectRefused(OpenWith(name, bytes.substr(0, static_cast<size_t>(bytes.size() * part))),
                    name + " cut");
    }
    ExpectRefused(OpenWith(name, bytes.substr(0, bytes.size() - 1)), name + " without its end");
    ExpectRefused(OpenWith(name, bytes + "x"), name + " with more");
  }
  EXPECT_EQ(refused_, 32);
}

TEST_F(FolderMutationsTest, WrongTypesInTheConfigurationAreRefused) {
  const nlohmann::json config = nlohmann::json::parse(files_.at(kConfig));
  const std::vector<nlohmann::json> wrong = {
      "text", -1, 0, 1.5, 1e300, true, nlohmann::json::array(), nlohmann::json::object()};
  for (const char* key :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "vocab_size", "max_position_embeddings", "rms_norm_eps",
        "rope_theta", "model_type", "tie_word_embeddings"}) {
    for (const nlohmann::json& value : wrong) {
      // What is right for one of them.
      if (std::string(key) == "rope_theta" && value == 1e300) continue;
      if (std::string(key) == "tie_word_embeddings" && value == true) continue;
      nlohmann::json mutated = config;
      mutated[key] = value;
      ExpectRefused(OpenWith(kConfig, mutated.dump()), mutated.dump());
    }
  }
  EXPECT_GE(refused_, 85);
}

TEST_F(FolderMutationsTest, FeaturesThatAreLackingAreNamed) {
  const std::pair<const char*, nlohmann::json> features[] = {
      {"attention_bias", true},  // Qwen2's class has no such key
      {"mlp_bias", true},       {"quantization_config", {{"quant_method", "bitsandbytes"}}},
      {"hidden_act", "gelu"},   {"model_type", "mamba"},
      {"head_dim", 17},         {"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}};
  for (const auto& [key, value] : features) {
    nlohmann::json config = nlohmann::json::parse(files_.at(kConfig));
    config[key] = value;
    const absl::Status status = OpenWith(kConfig, config.dump());
    EXPECT_TRUE(absl::IsUnimplemented(status)) << key << ": " << status;
  }
}

TEST_F(FolderMutationsTest, AnIndexThatLiesIsRefused) {
  const nlohmann::json index = nlohmann::json::parse(files_.at(kIndex));
  const std::string first = TinyFolder::ShardName(0, kShards);
  const std::string second = TinyFolder::ShardName(1, kShards);
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    nlohmann::json moved = index;
    moved["weight_map"][tensor] = file == first ? second : first;
    ExpectRefused(OpenWith(kIndex, moved.dump()), tensor + " moved");
    nlohmann::json left_out = index;
    left_out["weight_map"].erase(tensor);
    ExpectRefused(OpenWith(kIndex, left_out.dump()), tensor + " left out");
  }
  for (const nlohmann::json& name :
       {nlohmann::json("../" + first), nlohmann::json("/etc/passwd"), nlohmann::json("a/" + first),
        nlohmann::json("missing.safetensors"), nlohmann::json(""), nlohmann::json(7),
        nlohmann::json(nullptr), nlohmann::json(std::string("a\0.safetensors", 14))}) {
    nlohmann::json named = index;
    named["weight_map"]["model.norm.weight"] = name;
    ExpectRefused(OpenWith(kIndex, named.dump()), named.dump());
  }
  for (const nlohmann::json& map : {nlohmann::json(), nlohmann::json::array(), nlohmann::json(1)}) {
    ExpectRefused(OpenWith(kIndex, nlohmann::json{{"weight_map", map}}.dump()), map.dump());
  }
  EXPECT_GE(refused_, 60);
}

uint64_t HeaderBytes(const std::string& shard) {
  uint64_t size = 0;
  std::memcpy(&size, shard.data(), sizeof(size));
  return size;
}

nlohmann::json Header(const std::string& shard) {
  return nlohmann::json::parse(shard.substr(8, HeaderBytes(shard)));
}

/// A shard with another header before the same data.
std::string WithHeader(const std::string& shard, const nlohmann::json& header) {
  const std::string text = header.dump();
  const uint64_t size = text.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + text +
         shard.substr(8 + HeaderBytes(shard));
}

TEST_F(FolderMutationsTest, WrongShapesTypesAndPlacesAreRefused) {
  const std::string name = TinyFolder::ShardName(0, kShards);
  const std::string& shard = files_.at(name);
  const nlohmann::json header = Header(shard);
  for (const auto& [tensor, entry] : header.items()) {
    if (tensor == "__metadata__") continue;
    const std::vector<std::function<void(nlohmann::json&)>> changes = {
        [](nlohmann::json& t) { t["shape"] = {1}; },
        [](nlohmann::json& t) { t["shape"].insert(t["shape"].begin(), 1); },
        [](nlohmann::json& t) { t["dtype"] = "F32"; },
        [](nlohmann::json& t) { t["dtype"] = "I16"; },
        [](nlohmann::json& t) { t["dtype"] = "U99"; },
        [](nlohmann::json& t) { t["data_offsets"][0] = 1; },
        [](nlohmann::json& t) { t["data_offsets"][1] = 1 << 30; },
        [](nlohmann::json& t) { t.erase("shape"); }};
    for (const auto& change : changes) {
      nlohmann::json changed = header;
      change(changed[tensor]);
      ExpectRefused(OpenWith(name, WithHeader(shard, changed)), changed[tensor].dump());
    }
  }
  EXPECT_GE(refused_, 90);
}

/// Bytes anywhere: what is accepted then is a model whose weights differ.
TEST_F(FolderMutationsTest, FlippedBitsNeverDoHarm) {
  std::mt19937 random(3);
  int refused = 0;
  for (int i = 0; i < 400; ++i) {
    std::map<std::string, std::string> files = files_;
    auto file = std::next(files.begin(), random() % files.size());
    // Within what is read when files are opened.
    const size_t end = std::min<size_t>(file->second.size(), 1200);
    file->second[random() % end] ^= static_cast<char>(1 << random() % 8);
    refused += Open(files).ok() ? 0 : 1;
  }
  EXPECT_GT(refused, 200);
}

}  // namespace
}  // namespace winnow

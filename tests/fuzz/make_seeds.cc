// Writes the seeds that are derived from golden data and from the tests' own writers of formats:
// make_seeds FOLDER, run in the source tree. Each target has a folder of its own in FOLDER.

#include <filesystem>
#include <fstream>
#include <iostream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "engine/base/check.h"
#include "engine/model/fingerprint.h"
#include "engine/model/label_file.h"
#include "engine/model/safetensors.h"
#include "tests/engine/model/tiny_folder.h"
#include "tests/engine/model/tiny_model.h"
#include "tests/engine/text/golden.h"
#include "tests/engine/text/golden_models.h"
#include "tests/fuzz/memory_file.h"
#include "winnow/v1/generation.pb.h"
#include "winnow/v1/tokenizer.pb.h"

namespace winnow {
namespace {

class SeedFolder {
 public:
  SeedFolder(const std::filesystem::path& parent, const std::string& target)
      : path_(parent / target) {
    std::filesystem::create_directories(path_);
  }

  void Add(std::string_view bytes) {
    std::ofstream file(path_ / ("seed" + std::to_string(count_++)), std::ios::binary);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    WINNOW_CHECK(file.good());
  }
  void Add(const std::vector<std::byte>& bytes) {
    Add(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  }

 private:
  std::filesystem::path path_;
  int count_ = 0;
};

/// A block of 32 elements, or one element, of a stored type.
struct BlockType {
  uint32_t id;
  uint64_t elements;
  uint64_t bytes;
};

/// A model as small as models can be, matrices of the type, with the vocabulary's 4 tokens.
std::vector<std::byte> SmallModel(const std::string& architecture, const BlockType& type,
                                  const VocabularyFile& vocabulary) {
  TinyModel tiny = TinyModel::Of(architecture);
  tiny.ints[architecture + ".block_count"] = 1;
  tiny.ints[architecture + ".feed_forward_length"] = 32;
  if (architecture.starts_with("gemma")) tiny.ints[architecture + ".attention.sliding_window"] = 4;
  if (architecture == "phi3") {
    tiny.shapes["rope_factors_short.weight"] = {8};
    tiny.shapes["rope_factors_long.weight"] = {8};
  }
  std::erase_if(tiny.shapes, [](const auto& entry) { return entry.first.starts_with("blk.1."); });
  for (const char* name : {"ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"}) {
    const auto entry = tiny.shapes.find(std::string("blk.0.") + name);
    if (entry == tiny.shapes.end()) continue;
    for (uint64_t& size : entry->second) size /= size > 32 ? 2 : 1;
  }
  GgufWriter writer = vocabulary.Write();
  for (const auto& [key, value] : tiny.strings) writer.String(key, value);
  for (const auto& [key, value] : tiny.ints) writer.Uint32(key, value);
  for (const auto& [key, value] : tiny.floats) writer.Float32(key, value);
  writer.String("tokenizer.chat_template", "{{'<|im_start|>' + message['content']}}");
  for (const auto& [name, shape] : tiny.shapes) {
    if (shape.size() == 1) {
      writer.TensorF32(name, shape, std::vector<float>(shape[0], 1.0f));
    } else {
      const std::vector<std::byte> data(shape[0] * shape[1] / type.elements * type.bytes,
                                        std::byte{0x11});
      writer.Tensor(name, shape, type.id, data);
    }
  }
  return writer.Bytes();
}

void WriteModels(SeedFolder folder) {
  VocabularyFile bpe{.model = "gpt2", .pre = "llama-bpe", .tokens = {"a", "b", "ab", "<s>"}};
  bpe.types = {1, 1, 1, 3};
  bpe.merges = {"a b"};
  bpe.bos = 3;
  VocabularyFile pieces{.model = "llama", .tokens = {"<unk>", "<s>", "<0x41>", "\u2581a"}};
  pieces.types = {2, 3, 6, 1};
  pieces.scores = {0, 0, 0, -1};
  pieces.bos = 1;
  pieces.unknown = 0;
  constexpr BlockType kF32 = {0, 1, 4}, kF16 = {1, 1, 2}, kQ4_0 = {2, 32, 18}, kQ4_1 = {3, 32, 20},
                      kQ5_0 = {6, 32, 22}, kQ5_1 = {7, 32, 24}, kQ8_0 = {8, 32, 34},
                      kBF16 = {30, 1, 2};
  for (const BlockType& type : {kF32, kF16, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0, kBF16}) {
    folder.Add(SmallModel("llama", type, pieces));
  }
  for (const char* architecture : {"qwen2", "qwen3", "phi3", "gemma2", "gemma3"}) {
    folder.Add(SmallModel(architecture, kQ8_0, bpe));
  }
  folder.Add(GgufWriter().Bytes());
  GgufWriter values;
  values.alignment = 64;
  values.Uint32("general.alignment", 64).Bool("b", true).Float32("f", 1.5f).String("s", "text");
  values.Array<uint8_t>("bytes", kGgufUint8, {1, 2}).Array<double>("doubles", kGgufFloat64, {1, 2});
  // One block each of the types whose blocks hold 256 elements: Q4_K, Q5_K, Q6_K.
  values.Tensor("q4k", {1, 256}, 12, std::vector<std::byte>(144));
  values.Tensor("q5k", {1, 256}, 13, std::vector<std::byte>(176));
  values.Tensor("q6k", {1, 1, 256}, 14, std::vector<std::byte>(210));
  folder.Add(values.Bytes());
}

std::string Written(const LabelFile& labels) {
  MemoryFile memory;
  WINNOW_CHECK(labels.Write(memory.path()).ok());
  std::ifstream stream(memory.path());
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

/// For the model that label_file_fuzz.cc has.
void WriteLabelFiles(SeedFolder folder) {
  MemoryFile memory;
  memory.Set(TinyModel("llama").Write().Bytes());
  const auto checkpoint = Checkpoint::Open(memory.path()).value();
  const ModelConfig& config = checkpoint->config();
  constexpr int kWidth = 8;
  LabelFile labels;
  labels.architecture = config.architecture;
  labels.model_name = config.name;
  labels.model_fingerprint = ModelFingerprint(*checkpoint);
  labels.kv_heads = config.kv_heads;
  labels.head_dim = config.head_dim;
  labels.width = kWidth;
  labels.basis = "channels";
  labels.ranking = "qk";
  labels.calibrated_context = 128;
  labels.budget_sparsity = 16;
  labels.budget_weights.assign(config.layers * config.kv_heads, 1);
  LabelFile::Layer layer;
  layer.key.assign(config.kv_heads * config.head_dim * kWidth, 0);
  for (int j = 0; j < kWidth; ++j) layer.key[(15 - j) * kWidth + j] = 1;
  layer.query = layer.key;
  layer.low.assign(config.kv_heads * kWidth, -1);
  layer.high.assign(config.kv_heads * kWidth, 1);
  labels.layers.assign(config.layers, layer);
  folder.Add(Written(labels));
  labels.basis = "projection";
  folder.Add(Written(labels));
  labels.tail_weights.assign(config.layers * config.kv_heads, 0.5f);
  folder.Add(Written(labels));

  nlohmann::json channels;
  for (int l = 0; l < config.layers; ++l) {
    const std::string name = "model.layers." + std::to_string(l) + ".self_attn.qk_proj";
    for (int head = 0; head < config.heads; ++head) {
      for (int c = 0; c < config.head_dim; ++c) channels[name][head].push_back(c);
    }
  }
  folder.Add(channels.dump());
}

void WriteTexts(SeedFolder folder) {
  char model = 0;
  for (const char* name : {"tokenizer_bpe.json", "tokenizer_sentencepiece.json"}) {
    const nlohmann::json golden = LoadGolden(name);
    for (const auto& trained : golden["models"]) {
      for (const auto& example : trained["cases"]) {
        folder.Add(model + example["text"].get<std::string>());
      }
      ++model;
    }
  }
}

/// The golden files, cut down to what a fuzzer gets through quickly.
void WriteTokenizers(SeedFolder json_folder, SeedFolder model_folder) {
  const nlohmann::json json_golden = LoadGolden("tokenizer_json.json");
  for (const auto& model : json_golden["models"]) {
    nlohmann::json tokenizer = model["tokenizer"];
    nlohmann::json& merges = tokenizer["model"]["merges"];
    if (merges.is_array() && merges.size() > 20) merges.erase(merges.begin() + 20, merges.end());
    json_folder.Add(tokenizer.dump());
  }
  const nlohmann::json model_golden = LoadGolden("tokenizer_model.json");
  for (const auto& model : model_golden["models"]) {
    std::string bytes;
    WINNOW_CHECK(absl::Base64Unescape(model["model"].get<std::string>(), &bytes));
    model_folder.Add(bytes);
  }
}

void WriteChats(SeedFolder folder) {
  const nlohmann::json golden = LoadGolden("chat_templates.json");
  const std::string schema = golden["tools"]["one tool"][0]["parameters"].dump();
  for (const auto& known : golden["templates"]) {
    for (const char* key : {"jinja", "tool_use"}) {
      const std::string jinja = known[key];
      folder.Add(jinja);
      std::string fields = jinja;
      for (const std::string& field :
           {std::string("Be <brief>."), std::string("Hello"),
            std::string("<think>\nHm.\n</think>\nHi"), schema, schema, schema}) {
        fields.append(1, '\0').append(field);
      }
      folder.Add(fields);
    }
  }
}

void WriteFlags(SeedFolder folder) {
  folder.Add("file");
  folder.Add("--on\n--count=5\n--bytes\n1000\n--share=0.25\n--name=x\n--device\ncuda\nfile");
  folder.Add("--limit=-3\n--ratio=1e3\n--seed=7\n--line=a\n--line=b\nfile");
  folder.Add("--help");
  folder.Add(
      std::string("file\n--count=7\0# sizes\ncount: 6 # six\nname = \"a # b\"\n\non = true\n", 60));
}

v1::GenerateRequest FullRequest() {
  v1::GenerateRequest request;
  request.set_model("m");
  request.set_text("hello <eos>");
  v1::SamplingParams* sampling = request.mutable_sampling();
  sampling->set_temperature(0.5f);
  sampling->set_top_k(5);
  sampling->set_top_p(0.9f);
  sampling->set_min_p(0.1f);
  sampling->set_repetition_penalty(1.5f);
  sampling->set_presence_penalty(-2);
  sampling->set_frequency_penalty(2);
  sampling->set_seed(1);
  (*sampling->mutable_logit_bias())[7] = -std::numeric_limits<float>::infinity();
  v1::StopConditions* stop = request.mutable_stop();
  stop->set_max_tokens(20);
  stop->add_strings("END");
  stop->add_token_ids(9);
  stop->set_ignore_eos(true);
  request.mutable_attention()->set_policy("window");
  request.mutable_attention()->set_sparsity(16);
  request.set_n(2);
  request.set_logprobs(true);
  request.set_top_logprobs(3);
  request.set_cache_salt("salt");
  return request;
}

/// The first byte is as request_fuzz.cc reads it.
void WriteRequests(SeedFolder folder) {
  const auto add = [&](char choice, const google::protobuf::Message& message) {
    folder.Add(choice + message.SerializeAsString());
  };
  v1::GenerateRequest request = FullRequest();
  add(2, request);
  add(6, request);
  request.mutable_attention()->clear_sparsity();
  request.mutable_attention()->set_policy("double-sparsity");
  request.mutable_attention()->set_budget_tokens(20);
  request.mutable_tokens()->add_ids(259);
  add(6, request);
  request.mutable_attention()->Clear();
  for (const char* role : {"system", "user", "assistant", "user"}) {
    v1::ChatMessage* message = request.mutable_chat()->add_messages();
    message->set_role(role);
    message->set_content("hi");
  }
  add(2, request);
  // Refusals that would be longer than headers may be, if each fault were reported in full.
  request.set_model(std::string(9000, 'm'));
  add(2, request);
  request.clear_model();
  request.mutable_chat()->mutable_messages(0)->set_role(std::string(9000, 'r'));
  request.mutable_attention()->set_policy(std::string(9000, 'p'));
  for (int i = 0; i < 1000; ++i) request.mutable_stop()->add_strings("");
  add(2, request);
  request = FullRequest();
  v1::TokenizeRequest tokenize;
  tokenize.set_text("hi");
  tokenize.set_add_bos(true);
  add(0, tokenize);
  tokenize.mutable_chat()->add_messages()->set_role("user");
  add(0, tokenize);
  v1::DetokenizeRequest detokenize;
  for (const int token : {0, 65, 200, 259}) detokenize.add_token_ids(token);
  add(1, detokenize);
}

/// A configuration of each family, with what its files have beyond sizes.
void WriteConfigs(SeedFolder folder) {
  const std::pair<const char*, const char*> families[] = {
      {"llama", R"({"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,)"
                R"("high_freq_factor":4.0,"original_max_position_embeddings":64}})"},
      {"mistral", R"({"sliding_window":16})"},
      {"mixtral", R"({"num_local_experts":4,"num_experts_per_tok":2})"},
      {"qwen2", R"({"use_sliding_window":true,"sliding_window":16,"max_window_layers":1,)"
                R"("rope_scaling":{"type":"yarn","factor":4.0}})"},
      {"qwen3_moe", R"({"num_experts":4,"num_experts_per_tok":2,"moe_intermediate_size":16})"},
      {"phi3", R"({"rope_scaling":{"type":"longrope","short_factor":[1,1,1,1,1,1,1,1],)"
               R"("long_factor":[1,2,3,4,5,6,7,8]},"original_max_position_embeddings":64})"},
      {"gemma2", R"({"attn_logit_softcapping":50.0,"sliding_window":16,"head_dim":16})"},
      {"gemma3_text", R"({"layer_types":["sliding_attention","full_attention"],"head_dim":16,)"
                      R"("rope_parameters":{"full_attention":{"rope_type":"linear","factor":8.0},)"
                      R"("sliding_attention":{"rope_theta":10000.0}}})"}};
  for (const auto& [model_type, more] : families) {
    nlohmann::json config = TinyFolder(model_type).config;
    config.update(nlohmann::json::parse(more));
    folder.Add(config.dump());
  }
  const nlohmann::json golden = LoadGolden("quantized.json");
  for (const auto& matrix : golden["cases"]) {
    nlohmann::json config = TinyFolder("llama").config;
    config["quantization_config"] = matrix["quantization_config"];
    folder.Add(config.dump());
  }
}

void WriteSafetensorsFiles(SeedFolder folder) {
  const nlohmann::json golden = LoadGolden("quantized.json");
  for (const auto& matrix : golden["cases"]) {
    std::map<std::string, FolderTensor> tensors;
    for (const auto& [end, tensor] : matrix["tensors"].items()) {
      FolderTensor& own = tensors["m." + end];
      own = {tensor["dtype"], tensor["shape"], {}};
      WINNOW_CHECK(absl::Base64Unescape(tensor["data"].get<std::string>(), &own.bytes));
    }
    folder.Add(WriteSafetensors(tensors));
  }
  for (const char* type : {"F32", "BF16"}) {
    const std::string file = WriteSafetensors(TinyFolder("qwen2", type).tensors);
    WINNOW_CHECK(ParseSafetensors(std::as_bytes(std::span(file))).ok());
    folder.Add(file);
  }
}

}  // namespace
}  // namespace winnow

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: make_seeds FOLDER\n";
    return 2;
  }
  const std::filesystem::path parent = argv[1];
  winnow::WriteModels({parent, "gguf"});
  winnow::WriteLabelFiles({parent, "label_file"});
  winnow::WriteConfigs({parent, "config_json"});
  winnow::WriteSafetensorsFiles({parent, "safetensors"});
  winnow::WriteTexts({parent, "tokenizer"});
  winnow::WriteTokenizers({parent, "tokenizer_json"}, {parent, "tokenizer_model"});
  winnow::WriteChats({parent, "chat_template"});
  winnow::WriteFlags({parent, "flags"});
  winnow::WriteRequests({parent, "request"});
  return 0;
}

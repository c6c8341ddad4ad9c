// Writes a model of random weights that is small enough to serve under sanitizers, where the demo
// model takes seconds for a token: small_model DEMO_MODEL FILE. It has the demo model's vocabulary.

#include <cstdint>
#include <fstream>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/model/gguf.h"
#include "tests/engine/model/tiny_model.h"

namespace winnow {
namespace {

constexpr uint32_t kContext = 8192;

/// Random Q8_0: for each 32 elements a scale, fp16, and as many codes.
std::vector<std::byte> RandomWeights(uint64_t elements, std::mt19937& random) {
  constexpr uint16_t kScale = 0x1c00;  // 2^-8
  ByteWriter bytes;
  for (uint64_t i = 0; i < elements; ++i) {
    if (i % 32 == 0) bytes.Put(kScale);
    bytes.Put(static_cast<int8_t>(static_cast<int>(random() % 255) - 127));
  }
  return bytes.bytes();
}

std::vector<std::byte> SmallModel(const GgufFile& demo) {
  GgufWriter writer;
  for (const char* key :
       {"tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.chat_template"}) {
    writer.String(key, demo.GetString(key).value());
  }
  for (const char* key : {"tokenizer.ggml.tokens", "tokenizer.ggml.merges"}) {
    writer.Strings(key, *demo.GetStrings(key).value());
  }
  const std::vector<int64_t>& types = *demo.GetInts("tokenizer.ggml.token_type").value();
  writer.Array("tokenizer.ggml.token_type", kGgufInt64, types);
  for (const char* key : {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"}) {
    writer.Uint32(key, static_cast<uint32_t>(demo.GetInt(key).value()));
  }

  TinyModel model("llama");
  model.ints["llama.context_length"] = kContext;
  model.shapes["token_embd.weight"][0] = types.size();
  for (const auto& [key, value] : model.strings) writer.String(key, value);
  for (const auto& [key, value] : model.ints) writer.Uint32(key, value);
  for (const auto& [key, value] : model.floats) writer.Float32(key, value);
  std::mt19937 random(1);
  for (const auto& [name, shape] : model.shapes) {
    if (shape.size() == 1) {
      writer.TensorF32(name, shape, std::vector<float>(shape[0], 1.0f));
    } else {
      writer.Tensor(name, shape, kGgufQ8_0, RandomWeights(shape[0] * shape[1], random));
    }
  }
  return writer.Bytes();
}

}  // namespace
}  // namespace winnow

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: small_model DEMO_MODEL FILE\n";
    return 2;
  }
  const auto demo = winnow::GgufFile::Open(argv[1]);
  if (!demo.ok()) {
    std::cerr << demo.status() << "\n";
    return 1;
  }
  const std::vector<std::byte> bytes = winnow::SmallModel(**demo);
  std::ofstream file(argv[2], std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  return file.good() ? 0 : 1;
}

#include "engine/bench/bench_support.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>

#include "kernels/float16.h"

namespace winnow {

double SecondsSince(BenchClock::time_point start) {
  return std::chrono::duration<double>(BenchClock::now() - start).count();
}

double Median(std::vector<double> values) {
  const auto middle = values.begin() + std::ssize(values) / 2;
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::vector<uint16_t> RandomBf16(int64_t count, float deviation) {
  std::vector<uint16_t> numbers(count);
  const float width = std::sqrt(12.0f) * deviation;
  uint64_t state = 1;
  for (uint16_t& number : numbers) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const float uniform = static_cast<float>(state >> 40) * 0x1p-24f - 0.5f;
    number = static_cast<uint16_t>(std::bit_cast<uint32_t>(uniform * width) >> 16);
  }
  return numbers;
}

void FillPools(const KvPools& pools, int blocks, Backend& backend) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  const KvView& first = pools.Layer(0);
  std::vector<uint16_t> values(first.block_bytes() / sizeof(uint16_t));
  for (uint16_t& value : values) value = FloatToHalf(normal(random));
  std::mt19937 random_codes(3);
  std::vector<std::byte> codes(first.block_label_bytes() * blocks);
  for (std::byte& byte : codes) byte = static_cast<std::byte>(random_codes());
  // Keys and values come from the host once: most blocks are copied within the device.
  backend.Copy(first.block(0), reinterpret_cast<const std::byte*>(values.data()),
               first.block_bytes());
  for (int l = 0; l < pools.layers(); ++l) {
    const KvView& layer = pools.Layer(l);
    for (int block = layer.data == first.data ? 1 : 0; block < blocks; ++block) {
      backend.Copy(layer.block(block), first.block(0), layer.block_bytes());
    }
    if (layer.labels != nullptr)
      backend.Copy(layer.label_block(0), codes.data(), std::ssize(codes));
  }
}

LabelFile RandomLabels(const ModelConfig& config, int width) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal;
  LabelFile file;
  file.kv_heads = config.kv_heads;
  file.head_dim = config.head_dim;
  file.width = width;
  file.layers.resize(config.layers);
  const size_t ranges = static_cast<size_t>(config.kv_heads) * static_cast<size_t>(width);
  for (LabelFile::Layer& layer : file.layers) {
    layer.query.resize(ranges * static_cast<size_t>(config.head_dim));
    // Scores of a few units, as trained heads have them.
    for (float& value : layer.query) value = 0.1f * normal(random);
    layer.key = layer.query;
    layer.low.assign(ranges, -10.0f);
    layer.high.assign(ranges, 10.0f);
  }
  file.budget_weights.assign(static_cast<size_t>(config.layers * config.kv_heads), 1.0f);
  return file;
}

}  // namespace winnow

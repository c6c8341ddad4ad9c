#include "engine/cache/kv_pools.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "engine/cache/file_memory.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"

namespace winnow {
namespace {

/// Layers that differ in all that may differ, one without labels.
const std::vector<KvShape> kLayout = {
    {.blocks = 5,
     .kv_heads = 3,
     .block_tokens = 16,
     .head_dim = 32,
     .label_width = 8,
     .summary_slots = 2},
    {.blocks = 2, .kv_heads = 1, .block_tokens = 16, .head_dim = 64},
    {.blocks = 7,
     .kv_heads = 2,
     .block_tokens = 16,
     .head_dim = 16,
     .label_width = 24,
     .summary_slots = 3},
};

class KvPoolsTest : public testing::Test {
 protected:
  void SetUp() override {
    auto allocated = KvPools::Allocate(*backend_, kLayout);
    ASSERT_TRUE(allocated.ok()) << allocated.status();
    pools_ = *std::move(allocated);
  }

  static std::span<std::byte> Keys(const KvView& layer) {
    return {layer.data, static_cast<size_t>(layer.bytes())};
  }
  static std::span<std::byte> Labels(const KvView& layer) {
    return {layer.labels, static_cast<size_t>(layer.label_bytes())};
  }
  static std::span<std::byte> Summaries(const KvView& layer) {
    return {reinterpret_cast<std::byte*>(layer.summaries),
            static_cast<size_t>(layer.summary_bytes())};
  }
  static std::vector<std::byte> CopyOf(std::span<const std::byte> bytes) {
    return {bytes.begin(), bytes.end()};
  }

  std::unique_ptr<Backend> backend_ = CreateCpuBackend({.threads = 1});
  std::unique_ptr<KvPools> pools_;
};

TEST_F(KvPoolsTest, EachLayerHasZeroedMemoryOfItsOwn) {
  ASSERT_EQ(pools_->layers(), 3);
  for (int l = 0; l < 3; ++l) {
    const KvView& layer = pools_->Layer(l);
    EXPECT_EQ(layer.bytes(), kLayout[static_cast<size_t>(l)].bytes());
    EXPECT_EQ(layer.labels != nullptr, layer.label_width > 0);
    EXPECT_EQ(layer.summaries != nullptr, layer.summary_slots > 0);
    for (const auto memory : {Keys(layer), Labels(layer), Summaries(layer)}) {
      EXPECT_EQ(std::ranges::count(memory, std::byte{0}), std::ssize(memory));
    }
    std::ranges::fill(Keys(layer), static_cast<std::byte>(3 * l + 1));
    std::ranges::fill(Labels(layer), static_cast<std::byte>(3 * l + 2));
    std::ranges::fill(Summaries(layer), static_cast<std::byte>(3 * l + 3));
  }
  for (int l = 0; l < 3; ++l) {
    const KvView& layer = pools_->Layer(l);
    EXPECT_EQ(std::ranges::count(Keys(layer), static_cast<std::byte>(3 * l + 1)), layer.bytes());
    EXPECT_EQ(std::ranges::count(Labels(layer), static_cast<std::byte>(3 * l + 2)),
              layer.label_bytes());
    EXPECT_EQ(std::ranges::count(Summaries(layer), static_cast<std::byte>(3 * l + 3)),
              layer.summary_bytes());
  }
}

TEST_F(KvPoolsTest, SaysHowManyBytesItHas) {
  // Of each layer: blocks, heads, 16 tokens, key and value, dimensions, 2 bytes; labels have half a
  // byte a number.
  EXPECT_EQ(pools_->kv_bytes(),
            5 * 3 * 16 * 2 * 32 * 2 + 2 * 1 * 16 * 2 * 64 * 2 + 7 * 2 * 16 * 2 * 16 * 2);
  EXPECT_EQ(pools_->label_bytes(), 5 * 3 * 16 * 8 / 2 + 7 * 2 * 16 * 24 / 2);
  // Of each slot and head: totals of codes, values and keys, and moments, of 4 bytes; means and
  // slopes of 2.
  const int narrow = 4 * (8 + 2 * 32 + 8 * (8 + 32)) + 2 * (8 + 2 * 32 + 8 * 32);
  const int wide = 4 * (24 + 2 * 16 + 24 * (24 + 16)) + 2 * (24 + 2 * 16 + 24 * 16);
  EXPECT_EQ(pools_->summary_bytes(), 2 * 3 * narrow + 3 * 2 * wide);
  EXPECT_EQ(pools_->block_bytes(), 3 * 16 * 2 * 32 * 2 + 1 * 16 * 2 * 64 * 2 + 2 * 16 * 2 * 16 * 2 +
                                       pools_->block_label_bytes());
  EXPECT_EQ(pools_->block_label_bytes(), 3 * 16 * 8 / 2 + 2 * 16 * 24 / 2);
  EXPECT_EQ(pools_->block_tokens(), 16);
}

TEST_F(KvPoolsTest, PlannedPoolsTakeTheMemoryOfTheirBlocksLater) {
  const auto pools = KvPools::Plan(*backend_, kLayout);
  EXPECT_EQ(pools->Layer(0).data, nullptr);
  pools->SetBlocks(3);
  EXPECT_EQ(pools->blocks(), 3);
  ASSERT_TRUE(pools->TakeMemory().ok());
  EXPECT_EQ(pools->kv_bytes() + pools->label_bytes(), 3 * pools->block_bytes());
  for (int l = 0; l < pools->layers(); ++l) {
    const KvView& layer = pools->Layer(l);
    std::ranges::fill(Keys(layer), std::byte{1});
    std::ranges::fill(Labels(layer), std::byte{2});
  }
  EXPECT_EQ(*pools->Layer(2).data, std::byte{1});
  EXPECT_EQ(*pools->Layer(2).labels, std::byte{2});
}

TEST_F(KvPoolsTest, CopiesTheFirstTokensOfABlockInEveryLayerAndNothingElse) {
  constexpr int kFrom = 1;
  constexpr int kTo = 0;
  constexpr int kTokens = 5;
  uint8_t next = 0;
  std::vector<std::vector<std::byte>> before, labels_before;
  for (int l = 0; l < 3; ++l) {
    for (const auto memory : {Keys(pools_->Layer(l)), Labels(pools_->Layer(l))}) {
      for (std::byte& byte : memory) byte = static_cast<std::byte>(next = next * 5 + 29);
    }
    before.push_back(CopyOf(Keys(pools_->Layer(l))));
    labels_before.push_back(CopyOf(Labels(pools_->Layer(l))));
  }
  ASSERT_TRUE(pools_->Copy({kFrom, kTo, kTokens}).ok());
  for (int l = 0; l < 3; ++l) {
    const KvView& layer = pools_->Layer(l);
    // What lay at an address before the copy.
    const auto was = [&](const uint16_t* at) {
      return &before[static_cast<size_t>(l)][reinterpret_cast<const std::byte*>(at) - layer.data];
    };
    for (int block = 0; block < layer.blocks; ++block) {
      for (int g = 0; g < layer.kv_heads; ++g) {
        for (int slot = 0; slot < layer.block_tokens; ++slot) {
          const bool copied = block == kTo && slot < kTokens;
          const uint16_t* key = layer.key(block, g, slot);
          const uint16_t* source = layer.key(copied ? kFrom : block, g, slot);
          EXPECT_EQ(std::memcmp(key, was(source), 4 * static_cast<size_t>(layer.head_dim)), 0)
              << "layer " << l << " block " << block << " head " << g << " slot " << slot;
        }
      }
    }
    // Labels of a block are copied whole.
    std::vector<std::byte>& labels = labels_before[static_cast<size_t>(l)];
    std::copy_n(labels.begin() + kFrom * layer.block_label_bytes(), layer.block_label_bytes(),
                labels.begin() + kTo * layer.block_label_bytes());
    EXPECT_EQ(CopyOf(Labels(layer)), labels) << "layer " << l;
  }
}

TEST_F(KvPoolsTest, BlocksComeBackFromTheHostTierInEveryLayer) {
  // All layers have as many blocks here, or their ids would not be those of the store.
  std::vector<KvShape> layout = kLayout;
  for (KvShape& shape : layout) shape.blocks = 4;
  auto from_file = FileMemory::Create(testing::TempDir() + "/host_tier", 2 * 16384);
  ASSERT_TRUE(from_file.ok()) << from_file.status();
  auto from_system = backend_->AllocateHost(2 * 16384, [](int64_t) {});
  ASSERT_TRUE(from_system.ok()) << from_system.status();
  std::unique_ptr<Buffer> memories[] = {*std::move(from_file), *std::move(from_system)};
  for (std::unique_ptr<Buffer>& memory : memories) {
    const auto pools = KvPools::Allocate(*backend_, layout);
    ASSERT_TRUE(pools.ok()) << pools.status();
    ASSERT_EQ((*pools)->slot_bytes(), (*pools)->block_bytes());
    ASSERT_LE(2 * (*pools)->slot_bytes(), memory->bytes());
    (*pools)->SetHostMemory(std::move(memory));
    const auto fill = [&](int block, int value) {
      for (int l = 0; l < 3; ++l) {
        const KvView& layer = (*pools)->Layer(l);
        std::fill_n(layer.block(block), layer.block_bytes(), static_cast<std::byte>(value + l));
        std::fill_n(layer.label_block(block), layer.block_label_bytes(),
                    static_cast<std::byte>(value + l + 3));
      }
    };
    const auto expect = [&](int block, int value) {
      for (int l = 0; l < 3; ++l) {
        const KvView& layer = (*pools)->Layer(l);
        EXPECT_EQ(std::count(layer.block(block), layer.block(block) + layer.block_bytes(),
                             static_cast<std::byte>(value + l)),
                  layer.block_bytes());
        EXPECT_EQ(std::count(layer.label_block(block),
                             layer.label_block(block) + layer.block_label_bytes(),
                             static_cast<std::byte>(value + l + 3)),
                  layer.block_label_bytes());
      }
    };
    for (int block = 0; block < 4; ++block) fill(block, 10 * block);
    const BlockInSlot out[] = {{0, 1}, {3, 0}};
    (*pools)->Spill(out);
    for (int block = 0; block < 4; ++block) fill(block, 100 + 10 * block);
    const BlockInSlot in[] = {{2, 0}, {0, 1}};
    (*pools)->Fetch(in);
    ASSERT_TRUE(backend_->Synchronize().ok());
    expect(0, 0);
    expect(1, 110);
    expect(2, 30);
    expect(3, 130);
  }
}

TEST(KvPoolsGroupsTest, TheFirstLayersOfAllGroupsShareMemoryAndSoTheSecond) {
  const auto backend = CreateCpuBackend({.threads = 1});
  const KvShape full{.blocks = 4,
                     .kv_heads = 2,
                     .block_tokens = 16,
                     .head_dim = 32,
                     .label_width = 8,
                     .summary_slots = 2};
  KvShape windowed = full;
  windowed.label_width = 0;
  windowed.summary_slots = 0;
  windowed.group = 1;
  const KvShape layers[] = {windowed, full, full, windowed};
  const auto pools = KvPools::Allocate(*backend, layers);
  ASSERT_TRUE(pools.ok()) << pools.status();
  EXPECT_EQ((*pools)->groups(), 2);
  EXPECT_EQ((*pools)->Layer(0).data, (*pools)->Layer(1).data);
  EXPECT_EQ((*pools)->Layer(2).data, (*pools)->Layer(3).data);
  EXPECT_EQ((*pools)->Layer(2).data, (*pools)->Layer(1).data + full.bytes());
  EXPECT_EQ((*pools)->Layer(0).labels, nullptr);
  EXPECT_EQ((*pools)->Layer(2).labels, (*pools)->Layer(1).labels + full.label_bytes());
  EXPECT_EQ((*pools)->Layer(0).summaries, nullptr);
  EXPECT_EQ((*pools)->Layer(2).summaries, (*pools)->Layer(1).summaries + full.summary_bytes() / 4);
  EXPECT_EQ((*pools)->summary_bytes(), 2 * full.summary_bytes());
  EXPECT_EQ((*pools)->kv_bytes(), 2 * full.bytes());
  EXPECT_EQ((*pools)->label_bytes(), 2 * full.label_bytes());
}

TEST(KvPoolsAllocationTest, MemoryThatThereIsNotIsAnError) {
  const auto backend = CreateCpuBackend({.threads = 1});
  const KvShape huge{.blocks = 1 << 30, .kv_heads = 1 << 10, .block_tokens = 32, .head_dim = 128};
  const auto pools = KvPools::Allocate(*backend, {&huge, 1});
  EXPECT_EQ(pools.status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace winnow

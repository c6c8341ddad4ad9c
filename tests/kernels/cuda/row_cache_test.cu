// The device's copies of rows of the host, against what the rows hold and what a cache must have.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "kernels/cuda/row_cache.h"
#include "kernels/cuda/tiered_memory.h"
#include "tests/kernels/cuda/device_array.cuh"

namespace winnow::cuda {
namespace {

constexpr int kBlockTokens = 16;

// Every 32-bit word of a row tells whose it is.
__global__ void Tag(uint32_t* words, uint32_t first_entry, uint32_t entries, int row_words) {
  for (uint32_t i = blockIdx.x; i < entries; i += gridDim.x) {
    for (int w = threadIdx.x; w < row_words; w += blockDim.x) {
      words[int64_t{first_entry + i} * row_words + w] = (first_entry + i) * 64 + w % 64;
    }
  }
}

__global__ void ReadRows(const uint32_t* words, const uint32_t* entries, uint32_t* out,
                         int row_words) {
  for (int w = threadIdx.x; w < row_words; w += blockDim.x) {
    out[int64_t{blockIdx.x} * row_words + w] = words[int64_t{entries[blockIdx.x]} * row_words + w];
  }
}

struct Geometry {
  int kv_heads = 4;
  int head_dim = 128;
  int rows = 3;         // sequences in a step
  int budget = 96;      // of each KV head of a row
  int copy_blocks = 0;  // of the cache
  int device_blocks = 16;
  int host_blocks = 64;
};

class RowCacheTest : public testing::TestWithParam<Geometry> {
 protected:
  void SetUp() override {
    if (int count = 0; cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
      GTEST_SKIP() << "no CUDA device";
    }
    const absl::StatusOr<int64_t> part = TieredRange::PartBytes();
    if (!part.ok()) GTEST_SKIP() << part.status();
    const Geometry& g = GetParam();
    row_words_ = g.head_dim;
    cache_ = {.host_blocks = g.host_blocks, .copy_blocks = g.copy_blocks};
    const int64_t block_bytes =
        int64_t{g.kv_heads} * kBlockTokens * row_words_ * static_cast<int64_t>(sizeof(uint32_t));
    // Whole parts of memory, whatever is asked for.
    const int64_t unit = std::lcm(*part, block_bytes);
    const auto blocks_in = [&](int blocks) {
      return static_cast<int>((blocks * block_bytes + unit - 1) / unit * unit / block_bytes);
    };
    cache_.first_host_block = blocks_in(g.device_blocks);
    cache_.host_blocks = blocks_in(g.host_blocks);
    host_blocks_ = g.host_blocks;
    absl::StatusOr<std::unique_ptr<TieredRange>> memory =
        TieredRange::Create({{MemoryTier::kDevice, cache_.first_host_block * block_bytes},
                             {MemoryTier::kHost, cache_.host_blocks * block_bytes},
                             {MemoryTier::kDevice, blocks_in(g.copy_blocks) * block_bytes}},
                            [&](int64_t bytes) { host_bytes_ = bytes; });
    ASSERT_TRUE(memory.ok()) << memory.status();
    memory_ = *std::move(memory);
    ASSERT_EQ(host_bytes_, cache_.host_blocks * block_bytes);
    words_ = reinterpret_cast<uint32_t*>(memory_->data());
    Tag<<<256, 128>>>(words_, 0, (cache_.first_host_block + cache_.host_blocks) * BlockEntries(),
                      row_words_);
    cache_memory_ =
        std::make_unique<DeviceArray<std::byte>>(RowCacheBytes(cache_, g.kv_heads, kBlockTokens));
    cache_memory_->Fill(0);
    cache_.memory = cache_memory_->data();
    scratch_ =
        std::make_unique<DeviceArray<std::byte>>(FetchScratchBytes(g.rows, g.kv_heads, kRoom));
    scratch_->Fill(0);
    lists_ = std::make_unique<DeviceArray<uint32_t>>(g.rows * g.kv_heads * kRoom);
    contexts_ = std::make_unique<DeviceArray<int32_t>>(std::vector<int32_t>(g.rows, 100'000));
    selections_ = std::make_unique<DeviceArray<Selection>>(
        std::vector<Selection>(g.rows, {SelectionKind::kLabels, 1, g.budget}));
  }

  uint32_t BlockEntries() const { return GetParam().kv_heads * kBlockTokens; }
  bool IsHost(uint32_t entry) const {
    return entry >= cache_.first_host_block * BlockEntries() && !IsCopy(entry);
  }
  bool IsCopy(uint32_t entry) const {
    return entry >= (cache_.first_host_block + cache_.host_blocks) * BlockEntries();
  }
  int HeadOf(uint32_t entry) const { return entry / kBlockTokens % GetParam().kv_heads; }

  // Fetches what the lists [rows, kv_heads] [budget] name; returns the lists as they are then.
  std::vector<std::vector<uint32_t>> Fetch(const std::vector<std::vector<uint32_t>>& lists) {
    const Geometry& g = GetParam();
    std::vector<uint32_t> flat(lists.size() * kRoom, 0);
    for (size_t i = 0; i < lists.size(); ++i) {
      std::ranges::copy(lists[i], flat.begin() + static_cast<std::ptrdiff_t>(i * kRoom));
    }
    lists_->Set(flat);
    DecodeAttention call;
    call.kv_heads = g.kv_heads;
    call.head_dim = g.head_dim;
    call.block_tokens = kBlockTokens;
    call.kv = memory_->data();
    call.rows = g.rows;
    call.contexts = contexts_->data();
    call.selections = selections_->data();
    call.max_context = 100'000;
    call.max_selected = kRoom;
    call.selected = lists_->data();
    Check(LaunchFetchRows(call, cache_, scratch_->data(), nullptr));
    Check(cudaDeviceSynchronize());
    flat = lists_->Get();
    std::vector<std::vector<uint32_t>> now;
    for (size_t i = 0; i < lists.size(); ++i) {
      const auto begin = flat.begin() + static_cast<std::ptrdiff_t>(i * kRoom);
      now.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(lists[i].size()));
    }
    return now;
  }

  // What rows with these entries hold.
  std::vector<uint32_t> Read(const std::vector<uint32_t>& entries) {
    DeviceArray<uint32_t> device(entries);
    DeviceArray<uint32_t> out(entries.size() * row_words_);
    ReadRows<<<static_cast<int>(entries.size()), 128>>>(words_, device.data(), out.data(),
                                                        row_words_);
    return out.Get();
  }

  // That each list reads what it names, by entries of its own head, of which none stands for two.
  void ExpectSameRows(const std::vector<std::vector<uint32_t>>& asked,
                      const std::vector<std::vector<uint32_t>>& found) {
    std::map<uint32_t, uint32_t> copies;
    for (size_t i = 0; i < asked.size(); ++i) {
      const std::vector<uint32_t> words = Read(found[i]);
      for (size_t j = 0; j < asked[i].size(); ++j) {
        ASSERT_EQ(HeadOf(found[i][j]), HeadOf(asked[i][j]));
        if (IsCopy(found[i][j])) {
          ASSERT_TRUE(IsHost(asked[i][j]));
          const auto [known, is_new] = copies.emplace(found[i][j], asked[i][j]);
          ASSERT_TRUE(is_new || known->second == asked[i][j]) << "a copy stands for two rows";
        } else {
          ASSERT_EQ(found[i][j], asked[i][j]);
        }
        for (int w = 0; w < row_words_; ++w) {
          ASSERT_EQ(words[j * row_words_ + w], asked[i][j] * 64 + w % 64) << "list " << i;
        }
      }
    }
  }

  RowCacheCounts Counts() {
    RowCacheCounts counts;
    Check(cudaMemcpy(&counts, CountsOf(cache_), sizeof(counts), cudaMemcpyDeviceToHost));
    return counts;
  }

  // Lists of random entries, of the row's own blocks so that no two rows share any; each keeps
  // about `kept` of the last.
  void Choose(double kept, double of_device, std::mt19937& random,
              std::vector<std::vector<uint32_t>>* lists) {
    const Geometry& g = GetParam();
    lists->resize(g.rows * g.kv_heads);
    std::uniform_real_distribution<double> share(0, 1);
    for (int row = 0; row < g.rows; ++row) {
      for (int head = 0; head < g.kv_heads; ++head) {
        std::vector<uint32_t>& list = (*lists)[row * g.kv_heads + head];
        std::erase_if(list, [&](uint32_t) { return share(random) > kept; });
        std::set<uint32_t> chosen(list.begin(), list.end());
        while (static_cast<int>(chosen.size()) < g.budget) {
          const bool is_device = share(random) < of_device;
          const int blocks = is_device ? g.device_blocks : host_blocks_;
          const int own = blocks / g.rows;
          const int block = (is_device ? 0 : cache_.first_host_block) + row * own +
                            static_cast<int>(random() % own);
          chosen.insert((block * g.kv_heads + head) * kBlockTokens + random() % kBlockTokens);
        }
        list.assign(chosen.begin(), chosen.end());
      }
    }
  }

  static constexpr int kRoom = 2000;  // in a list, of which parts are looked up by several blocks

  RowCache cache_;
  int row_words_ = 0;
  int host_blocks_ = 0;
  int64_t host_bytes_ = 0;
  std::unique_ptr<TieredRange> memory_;
  uint32_t* words_ = nullptr;
  std::unique_ptr<DeviceArray<std::byte>> cache_memory_;
  std::unique_ptr<DeviceArray<std::byte>> scratch_;
  std::unique_ptr<DeviceArray<uint32_t>> lists_;
  std::unique_ptr<DeviceArray<int32_t>> contexts_;
  std::unique_ptr<DeviceArray<Selection>> selections_;
};

TEST_P(RowCacheTest, ListsReadTheRowsThatTheyNamedStepAfterStep) {
  std::mt19937 random(1);
  std::vector<std::vector<uint32_t>> lists;
  for (int step = 0; step < 60; ++step) {
    Choose(0.78, 0.1, random, &lists);
    const auto found = Fetch(lists);
    ExpectSameRows(lists, found);
    if (HasFatalFailure()) FAIL() << "in step " << step;
  }
}

TEST_P(RowCacheTest, WhatTheStepBeforeHadIsNotFetchedAgain) {
  const Geometry& g = GetParam();
  // Clocks keep what they have where there is room for two steps' rows.
  if (g.copy_blocks * kBlockTokens < 2 * g.rows * g.budget) GTEST_SKIP();
  std::mt19937 random(2);
  std::vector<std::vector<uint32_t>> lists;
  RowCacheCounts before;
  for (int step = 0; step < 60; ++step) {
    std::set<uint32_t> last;
    for (const auto& list : lists) last.insert(list.begin(), list.end());
    Choose(0.78, 0.1, random, &lists);
    Fetch(lists);
    uint64_t selected = 0;
    uint64_t fresh = 0;
    for (const auto& list : lists) {
      for (const uint32_t entry : list) {
        selected += IsHost(entry);
        fresh += IsHost(entry) && !last.contains(entry);
      }
    }
    const RowCacheCounts now = Counts();
    EXPECT_EQ(now.selected - before.selected, selected) << "in step " << step;
    EXPECT_LE(now.fetched - before.fetched, fresh) << "in step " << step;
    EXPECT_EQ(now.direct, 0u) << "in step " << step;
    before = now;
  }
}

TEST_P(RowCacheTest, WithRoomForAllEachRowIsFetchedOnce) {
  const Geometry& g = GetParam();
  if (g.copy_blocks < g.host_blocks) GTEST_SKIP();
  std::mt19937 random(3);
  std::vector<std::vector<uint32_t>> lists;
  std::set<uint32_t> all;
  for (int step = 0; step < 60; ++step) {
    Choose(0.5, 0, random, &lists);
    for (const auto& list : lists) all.insert(list.begin(), list.end());
    Fetch(lists);
    EXPECT_EQ(Counts().fetched, all.size()) << "in step " << step;
  }
}

TEST_P(RowCacheTest, WhatThereIsNoRoomForIsReadWhereItLies) {
  const Geometry& g = GetParam();
  std::mt19937 random(4);
  std::vector<std::vector<uint32_t>> lists;
  Choose(0, 0, random, &lists);
  const auto found = Fetch(lists);
  const int room = g.copy_blocks * kBlockTokens;
  std::vector<int> copies(g.kv_heads);
  for (const auto& list : found) {
    for (const uint32_t entry : list) copies[HeadOf(entry)] += IsCopy(entry);
  }
  for (const int of_head : copies) EXPECT_EQ(of_head, std::min(room, g.rows * g.budget));
  const uint64_t asked = uint64_t{static_cast<unsigned>(g.rows * g.budget)} * g.kv_heads;
  const RowCacheCounts counts = Counts();
  EXPECT_EQ(counts.selected, asked);
  EXPECT_EQ(counts.fetched + counts.direct, g.copy_blocks == 0 ? 0 : asked);
}

TEST_P(RowCacheTest, ForgottenRowsAreFetchedAnew) {
  const Geometry& g = GetParam();
  if (g.copy_blocks < g.host_blocks) GTEST_SKIP();
  std::mt19937 random(5);
  std::vector<std::vector<uint32_t>> lists;
  Choose(0, 0, random, &lists);
  Fetch(lists);
  // The blocks hold other rows now.
  const uint32_t first = cache_.first_host_block * BlockEntries();
  std::vector<int32_t> blocks;
  for (int b = 0; b < host_blocks_; ++b) blocks.push_back(cache_.first_host_block + b);
  DeviceArray<int32_t> device(blocks);
  Check(LaunchForgetRows(cache_, g.kv_heads, kBlockTokens, device.data(),
                         static_cast<int>(blocks.size()), nullptr));
  Tag<<<256, 128>>>(words_ + 1, first, host_blocks_ * BlockEntries() - 1, row_words_);
  Check(cudaDeviceSynchronize());
  const auto found = Fetch(lists);
  EXPECT_EQ(Counts().fetched, Counts().selected);
  for (size_t i = 0; i < lists.size(); ++i) {
    EXPECT_EQ(Read(found[i]), Read(lists[i])) << "list " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Geometries, RowCacheTest,
    testing::Values(
        Geometry{.copy_blocks = 64}, Geometry{.copy_blocks = 40}, Geometry{.copy_blocks = 18},
        Geometry{.copy_blocks = 4},
        Geometry{.kv_heads = 1, .head_dim = 64, .rows = 1, .budget = 300, .copy_blocks = 40},
        Geometry{.kv_heads = 8, .head_dim = 80, .rows = 2, .copy_blocks = 64},
        Geometry{.kv_heads = 2, .head_dim = 256, .rows = 4, .budget = 17, .copy_blocks = 9}));

}  // namespace
}  // namespace winnow::cuda

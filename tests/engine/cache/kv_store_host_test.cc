// The host tier behind a KvStore: memory whose contents are known, so that what a table reads can
// be compared with what was written there once.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "engine/cache/kv_store.h"

namespace winnow {
namespace {

using Tokens = std::vector<int32_t>;

/// Blocks and slots that hold a number for each token.
class TaggedMemory : public BlockMemory {
 public:
  TaggedMemory(int blocks, int slots, int block_tokens)
      : block_tokens_(block_tokens),
        device_(static_cast<size_t>(blocks * block_tokens), 0),
        host_(static_cast<size_t>(slots * block_tokens), 0) {}

  uint64_t& At(int32_t block, int token) {
    return device_.at(static_cast<size_t>(block * block_tokens_ + token));
  }

  absl::Status Copy(const BlockCopy& copy) override {
    for (int i = 0; i < copy.tokens; ++i) At(copy.to, i) = At(copy.from, i);
    return absl::OkStatus();
  }
  // Copies of one call may be made in any order: those that meet would show.
  void Spill(std::span<const BlockInSlot> copies) override {
    ExpectApart(copies);
    for (const auto& [block, slot] : copies) {
      for (int i = 0; i < block_tokens_; ++i) Host(slot, i) = At(block, i);
    }
  }
  void Fetch(std::span<const BlockInSlot> copies) override {
    ExpectApart(copies);
    for (const auto& [block, slot] : copies) {
      for (int i = 0; i < block_tokens_; ++i) At(block, i) = Host(slot, i);
    }
  }

 private:
  uint64_t& Host(int32_t slot, int token) {
    return host_.at(static_cast<size_t>(slot * block_tokens_ + token));
  }
  static void ExpectApart(std::span<const BlockInSlot> copies) {
    for (size_t i = 0; i < copies.size(); ++i) {
      for (size_t j = 0; j < i; ++j) {
        EXPECT_NE(copies[i].block, copies[j].block);
        EXPECT_NE(copies[i].slot, copies[j].slot);
      }
    }
  }

  int block_tokens_;
  std::vector<uint64_t> device_, host_;
};

/// What a group keeps of the last of the tokens: another number for everything that differs.
uint64_t Tag(const std::string& salt, std::span<const int32_t> tokens, int group) {
  uint64_t hash = std::hash<std::string>()(salt) + static_cast<uint64_t>(group);
  for (const int32_t token : tokens) {
    hash = (hash ^ static_cast<uint64_t>(token + 1)) * 0xff51afd7ed558ccd;
    hash ^= hash >> 32;
  }
  return hash;
}

/// A sequence that computes tokens into blocks.
struct Writer {
  Tokens tokens;
  std::string salt;
  BlockTable table;
  int computed = 0;

  KvStore::Holding holding() const {
    const auto length = static_cast<int>(tokens.size());
    return {&table, computed, length, length};
  }
};

class World {
 public:
  World(int blocks, int slots, int block_tokens, const std::vector<int>& windows, int step_rows)
      : windows_(windows, step_rows, block_tokens),
        step_rows_(step_rows),
        memory_(blocks, slots, block_tokens),
        store_(blocks, block_tokens, windows_, memory_, slots) {}

  KvStore& store() { return store_; }

  /// Starts a writer with what is known of its tokens, if there is room. Checks what it got.
  std::unique_ptr<Writer> Start(Tokens tokens, std::string salt = "") {
    auto writer = std::make_unique<Writer>();
    writer->tokens = std::move(tokens);
    writer->salt = std::move(salt);
    const auto length = static_cast<int>(writer->tokens.size());
    const int known = store_.KnownTokens(writer->tokens, writer->salt);
    writer->computed = store_.TakePrefix(writer->tokens, writer->salt, writer->table);
    EXPECT_EQ(writer->computed, known);
    const int free = store_.free_blocks();
    const int missing = store_.Missing(writer->table, writer->computed, length);
    const bool started = store_.Extend(writer->table, writer->computed, length);
    EXPECT_EQ(started, missing <= free);
    if (!started) {
      store_.Release(writer->table);
      return nullptr;
    }
    ExpectWritten(*writer);
    return writer;
  }

  /// Computes one step of it; false if all is computed.
  bool Compute(Writer& writer) {
    const auto length = static_cast<int>(writer.tokens.size());
    const int end = std::min(length, writer.computed + step_rows_);
    if (end == writer.computed) return false;
    // Windows that others share find no room at times.
    if (!store_.Extend(writer.table, writer.computed, length)) return false;
    for (int position = writer.computed; position < end; ++position) {
      for (int g = 0; g < store_.groups(); ++g)
        At(writer, g, position) = TagOf(writer, g, position);
    }
    writer.computed = end;
    store_.Publish(writer.table, std::span(writer.tokens).first(static_cast<size_t>(end)),
                   writer.salt);
    store_.FreeBehind(writer.table, end);
    ExpectWritten(writer);
    return true;
  }

  void Finish(std::unique_ptr<Writer> writer) { store_.Release(writer->table); }

  /// Computes the tokens to their end and goes.
  void Run(const Tokens& tokens) {
    auto writer = Start(tokens);
    ASSERT_NE(writer, nullptr);
    while (Compute(*writer)) continue;
    Finish(std::move(writer));
  }

  /// Whether all that rows to come see is what was written.
  void ExpectWritten(const Writer& writer) {
    for (int g = 0; g < store_.groups(); ++g) {
      const int first = windows_.FirstBlock(g, writer.computed) * store_.block_tokens();
      for (int position = first; position < writer.computed; ++position) {
        ASSERT_EQ(At(writer, g, position), TagOf(writer, g, position))
            << "group " << g << " position " << position << " of " << writer.computed;
      }
    }
  }

 private:
  uint64_t& At(const Writer& writer, int group, int position) {
    const int block_tokens = store_.block_tokens();
    return memory_.At(writer.table.blocks(group)[static_cast<size_t>(position / block_tokens)],
                      position % block_tokens);
  }
  static uint64_t TagOf(const Writer& writer, int group, int position) {
    return Tag(writer.salt, std::span(writer.tokens).first(static_cast<size_t>(position) + 1),
               group);
  }

  KvWindows windows_;
  int step_rows_;
  TaggedMemory memory_;
  KvStore store_;
};

/// `length` tokens, of a document of its own.
Tokens Document(int document, int length) {
  Tokens tokens(static_cast<size_t>(length));
  for (int i = 0; i < length; ++i) tokens[static_cast<size_t>(i)] = 1000 * document + i;
  return tokens;
}

TEST(KvStoreHostTest, BlocksThatFallOutOfTheDeviceStayKnownAndComeBack) {
  World world(/*blocks=*/8, /*slots=*/16, /*block_tokens=*/4, {0}, /*step_rows=*/6);
  world.Run(Document(1, 24));
  world.Run(Document(2, 32));
  EXPECT_EQ(world.store().KnownTokens(Document(1, 24), ""), 24);
  EXPECT_EQ(world.store().host_traffic().spilled, 6);
  EXPECT_EQ(world.store().host_traffic().fetched, 0);

  const auto writer = world.Start(Document(1, 27));
  ASSERT_NE(writer, nullptr);
  EXPECT_EQ(writer->computed, 24);
  EXPECT_EQ(world.store().host_traffic().fetched, 6);
  EXPECT_EQ(world.store().KnownTokens(Document(2, 32), ""), 32) << "which gave way to them";
  EXPECT_EQ(world.store().host_traffic().dropped, 0);
  world.store().Release(writer->table);
}

TEST(KvStoreHostTest, WhatCameBackKeepsItsSlotAndIsNotSpilledAgain) {
  World world(8, 16, 4, {0}, 6);
  world.Run(Document(1, 32));
  world.Run(Document(2, 32));
  for (int round = 0; round < 3; ++round) {
    world.Run(Document(1, 32));
    world.Run(Document(2, 32));
  }
  EXPECT_EQ(world.store().host_traffic().spilled, 16);
  EXPECT_EQ(world.store().host_traffic().fetched, 6 * 8);
}

TEST(KvStoreHostTest, OfAPrefixTheEndLeavesTheHostTierFirst) {
  World world(8, 5, 4, {0}, 6);
  world.Run(Document(1, 32));
  world.Run(Document(2, 32));
  EXPECT_EQ(world.store().KnownTokens(Document(1, 32), ""), 5 * 4);
  world.Run(Document(1, 20));
  EXPECT_EQ(world.store().KnownTokens(Document(1, 32), ""), 5 * 4);
  world.Run(Document(3, 20));
  EXPECT_EQ(world.store().KnownTokens(Document(1, 32), ""), 5 * 4);
}

TEST(KvStoreHostTest, SlotsOfAPrefixThatIsTakenAreNotOverwrittenByWhatGivesWayToIt) {
  // All slots hold the prefix; the blocks that give way to it find none.
  World world(8, 8, 4, {0}, 6);
  world.Run(Document(1, 32));
  world.Run(Document(2, 32));
  world.Run(Document(1, 32));
  EXPECT_EQ(world.store().host_traffic().fetched, 8);
  EXPECT_EQ(world.store().host_traffic().dropped, 0);
  EXPECT_EQ(world.store().KnownTokens(Document(2, 32), ""), 0);
}

TEST(KvStoreHostTest, APrefixThatIsGivenBackUnfetchedMovesNothing) {
  World world(8, 16, 4, {0}, 6);
  world.Run(Document(1, 24));
  world.Run(Document(2, 32));
  BlockTable table;
  const Tokens tokens = Document(1, 24);
  EXPECT_EQ(world.store().TakePrefix(tokens, "", table), 24);
  EXPECT_EQ(table.held(), 0);
  EXPECT_EQ(world.store().Missing(table, 24, 27), 7);
  EXPECT_EQ(world.store().host_tier().pinned_slots(), 6);
  world.store().Release(table);
  EXPECT_EQ(world.store().host_tier().pinned_slots(), 0);
  EXPECT_EQ(world.store().host_traffic().fetched, 0);
  EXPECT_EQ(world.store().free_blocks(), 8);
}

TEST(KvStoreHostTest, SaltsDoNotMeetInTheHostTier) {
  World world(8, 16, 4, {0}, 6);
  world.Run(Document(1, 24));
  world.Run(Document(2, 32));
  EXPECT_EQ(world.store().KnownTokens(Document(1, 24), "pepper"), 0);
}

TEST(KvStoreHostTest, EveryPrefixReadsWhatWasWrittenWhateverCameBetween) {
  int64_t fetched = 0;
  int64_t dropped = 0;
  for (unsigned seed = 0; seed < 1500; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const auto between = [&](int low, int high) {
      return std::uniform_int_distribution<int>(low, high)(random);
    };
    const int block_tokens = between(1, 5);
    std::vector<int> windows(static_cast<size_t>(between(1, 3)));
    for (int& window : windows) window = between(0, 1) * between(1, 12);
    World world(between(8, 40), between(0, 1) * between(1, 50), block_tokens, windows,
                between(1, 9));
    KvStore& store = world.store();
    std::vector<std::unique_ptr<Writer>> writers;
    for (int operation = 0; operation < 250; ++operation) {
      const int which = writers.empty() ? 0 : between(0, static_cast<int>(writers.size()) - 1);
      const auto writer = writers.begin() + which;
      switch (between(0, 5)) {
        case 0:
        case 1: {
          // One of a few documents, with an end of its own at times.
          Tokens tokens = Document(between(1, 4), between(1, 30));
          if (between(0, 1) == 0) tokens.push_back(between(0, 3));
          auto started = world.Start(std::move(tokens), between(0, 4) == 0 ? "salt" : "");
          if (started != nullptr) writers.push_back(std::move(started));
          break;
        }
        case 2:
          if (writers.empty()) break;
          world.Finish(std::move(*writer));
          writers.erase(writer);
          break;
        case 3: {
          if (writers.empty() || (*writer)->computed != std::ssize((*writer)->tokens)) break;
          auto child = std::make_unique<Writer>(Writer{(*writer)->tokens, (*writer)->salt, {}, 0});
          child->computed = (*writer)->computed;
          if (!*store.Fork((*writer)->table, child->computed, child->table)) break;
          writers.push_back(std::move(child));
          world.ExpectWritten(*writers.back());
          break;
        }
        default:
          if (!writers.empty()) world.Compute(**writer);
      }
      std::vector<KvStore::Holding> holdings;
      for (const auto& each : writers) {
        world.ExpectWritten(*each);
        holdings.push_back(each->holding());
      }
      store.CheckInvariants(holdings);
      if (testing::Test::HasFailure()) return;
    }
    for (auto& each : writers) world.Finish(std::move(each));
    ASSERT_EQ(store.used_blocks(), 0);
    fetched += store.host_traffic().fetched;
    dropped += store.host_traffic().dropped;
  }
  EXPECT_GT(fetched, 5'000) << "the workloads are too easy";
  EXPECT_GT(dropped, 5'000);
}

}  // namespace
}  // namespace winnow

#include "server/commands/pool_size.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "server/commands/serve_flags.h"
#include "server/commands/serve_options.h"

namespace winnow {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

TEST(PoolSize, BlocksFillTheFractionOfTheMemoryBesideWhatIsUsed) {
  // 0.9 x 80 GiB less 20 GiB.
  EXPECT_EQ(*BlocksThatFit({80 * kGiB, 60 * kGiB}, 0.9, kGiB / 100, 32), 5200);
  EXPECT_EQ(*BlocksThatFit({80 * kGiB, 60 * kGiB}, 1, kGiB, 32), 60);
  EXPECT_EQ(*BlocksThatFit({80 * kGiB, 80 * kGiB}, 1, 1, 32), kMostTokensThatFit / 32);
}

TEST(PoolSize, MemoryThatHoldsNoBlockIsAnErrorThatSaysWhatIsNeededAndFree) {
  const absl::Status status = BlocksThatFit({8 * kGiB, kGiB / 2}, 0.9, 5000, 32).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(std::string(status.message()),
            "a KV block needs 5000 bytes, but 8053063680 of the device's 8589934592 are in use and "
            "--memory-fraction 0.9 lets 7730941132 be used");
}

ModelConfig TrainedFor(int context) {
  ModelConfig config;
  config.max_context = context;
  return config;
}

TEST(PoolSize, OnTheCpuDefaultsAreModest) {
  ServeFlags flags;
  EXPECT_EQ(MakeEngineOptions(flags, TrainedFor(131072))->max_context, kDefaultMaxContext);
  EXPECT_EQ(MakeEngineOptions(flags, TrainedFor(131072))->kv_blocks, kDefaultKvTokens / 32);
  EXPECT_EQ(MakeEngineOptions(flags, TrainedFor(2048))->max_context, 2048);
  flags.max_context = 32768;
  EXPECT_EQ(MakeEngineOptions(flags, TrainedFor(131072))->kv_blocks, 32768 / 32);
  flags = {};
  flags.kv_tokens = 4096;
  EXPECT_EQ(MakeEngineOptions(flags, TrainedFor(131072))->max_context, 4096);
  EXPECT_EQ(MakeEngineOptions(flags, TrainedFor(2048))->max_context, 2048);
}

TEST(PoolSize, OnADeviceThePoolDecidesHowLongSequencesMayGet) {
  ServeFlags flags;
  flags.device = "cuda";
  absl::StatusOr<EngineOptions> options = MakeEngineOptions(flags, TrainedFor(131072));
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->kv_blocks, 0);  // as many as fit
  EXPECT_EQ(options->max_context, 131072);
  EngineOptions small = *options;
  ASSERT_TRUE(FitToPool(flags, 100, small).ok());
  EXPECT_EQ(small.max_context, 3200);
  EXPECT_EQ(small.kv_blocks, 100);
  ASSERT_TRUE(FitToPool(flags, 100000, *options).ok());
  EXPECT_EQ(options->max_context, 131072);

  flags.kv_tokens = 4096;
  EXPECT_EQ(MakeEngineOptions(flags, TrainedFor(131072))->max_context, 4096);
  EXPECT_EQ(MakeEngineOptions(flags, TrainedFor(131072))->kv_blocks, 128);
}

TEST(PoolSize, ASequenceOfMaxContextHasToFit) {
  ServeFlags flags;
  flags.device = "cuda";
  flags.max_context = 8192;
  absl::StatusOr<EngineOptions> options = MakeEngineOptions(flags, TrainedFor(131072));
  ASSERT_TRUE(options.ok()) << options.status();
  const absl::Status status = FitToPool(flags, 100, *options);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(std::string(status.message()),
            "one sequence of --max-context 8192 tokens does not fit into the device's memory, "
            "which holds a KV pool of 3200");
  flags.kv_tokens = 4096;
  EXPECT_EQ(MakeEngineOptions(flags, TrainedFor(131072)).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace winnow

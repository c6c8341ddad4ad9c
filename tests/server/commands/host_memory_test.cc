#include "server/commands/host_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>

#include "kernels/cpu/cpu_backend.h"

namespace winnow {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int64_t kGiB = int64_t{1} << 30;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(HostMemory, IsWithinTheMachinesMemoryUnlessItIsAFile) {
  ServeFlags flags;
  flags.kv_host_bytes = 8 * kGiB;
  EXPECT_TRUE(CheckHostMemory(flags, 8 * kGiB).ok());
  EXPECT_EQ(Message(CheckHostMemory(flags, 4 * kGiB)),
            "--kv-host-bytes 8589934592 is more than the machine's memory of 4294967296 bytes");
  flags.kv_host_file = "/tmp/tier";
  EXPECT_TRUE(CheckHostMemory(flags, 4 * kGiB).ok());
}

TEST(HostMemory, AFileNeedsASizeAndTheCpu) {
  ServeFlags flags;
  flags.kv_host_file = "/tmp/tier";
  EXPECT_THAT(Message(CheckHostMemory(flags, kGiB)), HasSubstr("needs --kv-host-bytes"));
  flags.kv_host_bytes = 1000;
  flags.device = "cuda";
  EXPECT_THAT(Message(CheckHostMemory(flags, kGiB)), HasSubstr("needs --device cpu"));
}

class HostMemoryTest : public testing::Test {
 protected:
  static constexpr int64_t kBlockBytes = 2 * 16 * 2 * 32 * 2;

  void SetUp() override {
    const KvShape layer{.blocks = 4, .kv_heads = 2, .block_tokens = 16, .head_dim = 32};
    auto pools = KvPools::Allocate(*backend_, {&layer, 1});
    ASSERT_TRUE(pools.ok()) << pools.status();
    pools_ = *std::move(pools);
  }

  ServeFlags flags_;
  std::unique_ptr<Backend> backend_ = CreateCpuBackend({.threads = 1});
  std::unique_ptr<KvPools> pools_;
};

TEST_F(HostMemoryTest, HasAsManySlotsAsFitIntoItsBytes) {
  EXPECT_EQ(*TakeHostMemory(flags_, *backend_, *pools_), 0);
  flags_.kv_host_bytes = 3 * kBlockBytes - 1;
  EXPECT_EQ(*TakeHostMemory(flags_, *backend_, *pools_), 2);
  flags_.kv_host_file = testing::TempDir() + "/host_memory";
  EXPECT_EQ(*TakeHostMemory(flags_, *backend_, *pools_), 2);
}

TEST_F(HostMemoryTest, ErrorsNameTheFlagAndTheLimit) {
  flags_.kv_host_bytes = kBlockBytes - 1;
  EXPECT_EQ(Message(TakeHostMemory(flags_, *backend_, *pools_).status()),
            "--kv-host-bytes 4095 is less than the 4096 bytes of one KV block");
  flags_.kv_host_bytes = kBlockBytes * (kMostHostSlots + int64_t{1});
  EXPECT_THAT(Message(TakeHostMemory(flags_, *backend_, *pools_).status()),
              HasSubstr("at most 16777216 are kept account of"));
  flags_.kv_host_bytes = 10 * kBlockBytes;
  flags_.kv_host_file = testing::TempDir() + "/no_such_folder/host_memory";
  EXPECT_THAT(Message(TakeHostMemory(flags_, *backend_, *pools_).status()),
              StartsWith("--kv-host-file: can't make " + flags_.kv_host_file));
}

}  // namespace
}  // namespace winnow

#include "engine/cache/file_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

namespace winnow {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string PathOf(const std::string& name) { return testing::TempDir() + "/" + name; }

TEST(FileMemoryTest, IsZeroedMemoryWhoseFileIsGone) {
  const std::string path = PathOf("zeroed");
  for (int round = 0; round < 2; ++round) {
    const auto memory = FileMemory::Create(path, 10'000);
    ASSERT_TRUE(memory.ok()) << memory.status();
    EXPECT_EQ((*memory)->bytes(), 10'000);
    EXPECT_EQ(std::count((*memory)->data(), (*memory)->data() + 10'000, std::byte{0}), 10'000);
    std::fill_n((*memory)->data(), 10'000, std::byte{7});
    EXPECT_FALSE(std::filesystem::exists(path));
  }
}

TEST(FileMemoryTest, AFileThatIsThereStaysAsItIs) {
  const std::string path = PathOf("existing");
  std::ofstream(path) << "precious";
  const auto memory = FileMemory::Create(path, 10'000);
  EXPECT_EQ(memory.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(memory.status().message()), HasSubstr(path));
  EXPECT_EQ(std::filesystem::file_size(path), 8u);
  std::filesystem::remove(path);
}

TEST(FileMemoryTest, WhatTheFileSystemHasNoRoomForIsAnErrorThatSaysWhatIsFree) {
  const std::string path = PathOf("huge");
  const auto memory = FileMemory::Create(path, int64_t{1} << 60);
  EXPECT_EQ(memory.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(memory.status().message()),
              StartsWith(path + " needs 1152921504606846976 bytes, of which "));
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(FileMemoryTest, AFileThatCanNotBeMadeIsTheSystemsError) {
  const auto memory = FileMemory::Create(PathOf("no/such/folder/file"), 10'000);
  EXPECT_EQ(memory.status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace winnow

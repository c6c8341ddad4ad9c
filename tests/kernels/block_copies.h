#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"

namespace winnow::test {

/// Expects that blocks which go to slots come back to other blocks, each part whole, and that
/// nothing else changes: `copies` of twice as many blocks, of `parts` parts of different sizes.
inline void ExpectBlocksComeBack(Backend& backend, int parts, int copies) {
  const int blocks = 2 * copies;
  std::mt19937 random(17);
  std::vector<std::unique_ptr<Buffer>> memory;
  std::vector<BlockPart> where;
  std::vector<std::vector<std::byte>> contents;
  for (int i = 0; i < parts; ++i) {
    // Some larger than what a thread block takes at a time, and not of a multiple of that.
    const int64_t bytes = 16 * (1 + (i % 20 == 0 ? 1400 : 0) + i);
    auto buffer = backend.Allocate(blocks * bytes);
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    memory.push_back(*std::move(buffer));
    where.push_back({memory.back()->data(), bytes});
    contents.emplace_back(blocks * bytes);
    for (std::byte& byte : contents.back()) byte = static_cast<std::byte>(random());
    backend.Copy(where.back().data, contents.back().data(), blocks * bytes);
  }
  BlockCopies call = {.parts = where};
  int64_t done = 0;
  const auto host = backend.AllocateHost(copies * call.slot_bytes(), [&](int64_t now) {
    EXPECT_GT(now, done);
    done = now;
  });
  ASSERT_TRUE(host.ok()) << host.status();
  EXPECT_EQ((*host)->bytes(), copies * call.slot_bytes());
  EXPECT_LE(done, (*host)->bytes());
  call.slots = (*host)->data();

  std::vector<int32_t> ids(blocks);
  std::iota(ids.begin(), ids.end(), 0);
  std::ranges::shuffle(ids, random);
  std::vector<BlockInSlot> there, back;
  for (int i = 0; i < copies; ++i) {
    there.push_back({ids[i], i});
    back.push_back({ids[copies + i], i});
  }
  std::ranges::shuffle(there, random);
  call.copies = there;
  backend.CopyToSlots(call);
  // The source is overwritten at once, as by a step.
  for (int p = 0; p < parts; ++p) {
    const auto bytes = where[p].bytes;
    const std::vector<std::byte> zeros(bytes);
    for (int i = 0; i < copies; ++i) {
      const auto at = ids[i] * bytes;
      std::copy_n(contents[p].begin() + at, bytes, contents[p].begin() + ids[copies + i] * bytes);
      std::fill_n(contents[p].begin() + at, bytes, std::byte{0});
      backend.Copy(where[p].data + at, zeros.data(), bytes);
    }
  }
  call.copies = back;
  backend.CopyFromSlots(call);
  for (int p = 0; p < parts; ++p) {
    std::vector<std::byte> now(contents[p].size());
    backend.Copy(now.data(), where[p].data, std::ssize(now));
    const absl::Status status = backend.Synchronize();
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_EQ(std::memcmp(now.data(), contents[p].data(), now.size()), 0) << "part " << p;
  }
}

}  // namespace winnow::test

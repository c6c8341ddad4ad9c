#include <algorithm>
#include <cstdint>

#include "kernels/cuda/block_copies.h"

namespace winnow::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kInFlight = 4;  // accesses of a thread
// Of one launch: what it is to copy are its arguments, so that no memory of theirs must live on.
constexpr int kParts = 64;
constexpr int kCopies = 256;

struct Part {
  std::byte* data;
  int64_t bytes;
  int64_t offset;  // in a slot
};

struct CopyCall {
  std::byte* slots;
  int64_t slot_bytes;
  Part parts[kParts];
  BlockInSlot copies[kCopies];
};
static_assert(sizeof(CopyCall) <= 4096, "what arguments of a kernel may have");

// A block for each part and copy. Many small pieces by one kernel: as many calls of the copy engine
// would take longer than the link needs.
template <bool kToSlots>
__global__ void __launch_bounds__(kThreads) CopyBlocks(const __grid_constant__ CopyCall call) {
  const Part& part = call.parts[blockIdx.x];
  const BlockInSlot& copy = call.copies[blockIdx.y];
  std::byte* block = part.data + copy.block * part.bytes;
  std::byte* slot = call.slots + copy.slot * call.slot_bytes + part.offset;
  const auto* from = reinterpret_cast<const uint4*>(kToSlots ? block : slot);
  auto* to = reinterpret_cast<uint4*>(kToSlots ? slot : block);
  const int64_t count = part.bytes / static_cast<int64_t>(sizeof(uint4));
  for (int64_t begin = threadIdx.x; begin < count; begin += kInFlight * kThreads) {
    uint4 held[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int64_t at = begin + i * kThreads;
      if (at < count) held[i] = __ldcs(from + at);
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int64_t at = begin + i * kThreads;
      if (at < count) __stcs(to + at, held[i]);
    }
  }
}

cudaError_t Launch(const CopyCall& call, int parts, int copies, bool to_slots,
                   cudaStream_t stream) {
  const dim3 blocks(static_cast<unsigned>(parts), static_cast<unsigned>(copies));
  if (to_slots) {
    CopyBlocks<true><<<blocks, kThreads, 0, stream>>>(call);
  } else {
    CopyBlocks<false><<<blocks, kThreads, 0, stream>>>(call);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchBlockCopies(const BlockCopies& copies, bool to_slots, cudaStream_t stream) {
  CopyCall call = {};
  call.slots = copies.slots;
  call.slot_bytes = copies.slot_bytes();
  int64_t offset = 0;
  for (size_t first = 0; first < copies.parts.size(); first += kParts) {
    const size_t parts = std::min<size_t>(kParts, copies.parts.size() - first);
    for (size_t i = 0; i < parts; ++i) {
      const BlockPart& part = copies.parts[first + i];
      call.parts[i] = {part.data, part.bytes, offset};
      offset += part.bytes;
    }
    for (size_t begin = 0; begin < copies.copies.size(); begin += kCopies) {
      const size_t count = std::min<size_t>(kCopies, copies.copies.size() - begin);
      std::copy_n(copies.copies.begin() + static_cast<std::ptrdiff_t>(begin), count, call.copies);
      const cudaError_t error =
          Launch(call, static_cast<int>(parts), static_cast<int>(count), to_slots, stream);
      if (error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

}  // namespace winnow::cuda

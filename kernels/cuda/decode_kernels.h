#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/decode_attention.h"

namespace winnow::cuda {

// The two parts of LaunchDecodeAttention.

/// Fills `call.selected` for the KV heads that select. `keys` is scratch of SelectScratchBytes.
cudaError_t LaunchSelect(const DecodeAttention& call, uint32_t* keys, cudaStream_t stream);

/// Bytes that LaunchSelect needs for contexts too long for shared memory, else 0.
int64_t SelectScratchBytes(int rows, int kv_heads, int max_context);

/// Scratch of LaunchAttend.
struct AttendScratch {
  int32_t* arrived;  ///< [rows, kv_heads], zero between calls
  float* partials;   ///< AttendPartialFloats
};

/// Attends to what is selected, or to everything.
cudaError_t LaunchAttend(const DecodeAttention& call, const AttendScratch& scratch,
                         cudaStream_t stream);

int64_t AttendPartialFloats(int head_dim);

/// The parts of `call.workspace`.
struct DecodeScratch {
  AttendScratch attend;
  uint32_t* keys;  ///< for LaunchSelect
};
DecodeScratch ScratchOf(const DecodeAttention& call);

/// What launches need to know of the current device; asked for once.
struct DeviceTraits {
  int multiprocessors = 0;
  int capability_major = 0;
};
const DeviceTraits& CurrentDeviceTraits();

}  // namespace winnow::cuda

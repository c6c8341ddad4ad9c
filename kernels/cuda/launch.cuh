#pragma once

#include <cuda_runtime_api.h>

namespace winnow::cuda {

/// Waits until the kernels before this one in the stream have finished and their writes are there.
/// Before that a kernel launched by LaunchEarly may touch only what no kernel writes.
__device__ inline void WaitForPreviousKernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Lets the next kernel of the stream take what this one leaves free of the device, best at once:
/// it waits for all of this one, which waits for the one before.
__device__ inline void LetNextKernelStart() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

struct LaunchShape {
  int blocks = 0;
  int threads = 0;
  int cluster = 1;  ///< blocks of a cluster
  int shared_bytes = 0;
};

/// Launches a kernel that calls WaitForPreviousKernel: it may start while the one before it ends,
/// where the device can do that (compute capability 9.0), which also is where clusters can be.
template <typename Argument>
cudaError_t LaunchEarly(void (*kernel)(Argument), const LaunchShape& shape, int capability_major,
                        cudaStream_t stream, const Argument& argument) {
  if (shape.shared_bytes > 0) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared_bytes);
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = shape.cluster;
  attributes[1].val.clusterDim.y = 1;
  attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(shape.blocks);
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  if (capability_major >= 9) config.numAttrs = shape.cluster > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&config, kernel, argument);
}

}  // namespace winnow::cuda

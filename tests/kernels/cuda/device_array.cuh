#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

namespace winnow::cuda {

inline void Check(cudaError_t error) {
  if (error != cudaSuccess) {
    ADD_FAILURE() << cudaGetErrorString(error);
    std::abort();
  }
}

/// An array on the device.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : count_(count) { Check(cudaMalloc(&data_, Bytes())); }
  explicit DeviceArray(const std::vector<T>& host) : DeviceArray(host.size()) { Set(host); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }

  void Set(const std::vector<T>& host) {
    Check(cudaMemcpy(data_, host.data(), count_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  void Fill(int byte) { Check(cudaMemset(data_, byte, Bytes())); }
  std::vector<T> Get() const {
    std::vector<T> host(count_);
    Check(cudaMemcpy(host.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return host;
  }
  T* data() { return data_; }

 private:
  size_t Bytes() const { return std::max<size_t>(count_, 1) * sizeof(T); }

  size_t count_;
  T* data_ = nullptr;
};

}  // namespace winnow::cuda

#include "kernels/cuda/tiered_memory.h"

#include <cuda_runtime_api.h>

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cuda/status.h"

namespace winnow::cuda {
namespace {

constexpr int64_t kHostPieceBytes = int64_t{1} << 30;

// The driver's functions, found at run time: what is linked is the runtime alone.
struct Driver {
  decltype(&cuMemGetAllocationGranularity) granularity = nullptr;
  decltype(&cuMemAddressReserve) reserve = nullptr;
  decltype(&cuMemAddressFree) free = nullptr;
  decltype(&cuMemCreate) create = nullptr;
  decltype(&cuMemRelease) release = nullptr;
  decltype(&cuMemMap) map = nullptr;
  decltype(&cuMemUnmap) unmap = nullptr;
  decltype(&cuMemSetAccess) set_access = nullptr;
  bool is_complete = true;

  template <typename Function>
  void Find(const char* name, Function* function) {
    constexpr unsigned kVersion = 12020;  // the first with host memory by NUMA node
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion(name, &found, kVersion, cudaEnableDefault, &result);
    if (error != cudaSuccess || result != cudaDriverEntryPointSuccess) is_complete = false;
    *function = reinterpret_cast<Function>(found);
  }
};

const Driver& TheDriver() {
  static const Driver driver = [] {
    Driver found;
    found.Find("cuMemGetAllocationGranularity", &found.granularity);
    found.Find("cuMemAddressReserve", &found.reserve);
    found.Find("cuMemAddressFree", &found.free);
    found.Find("cuMemCreate", &found.create);
    found.Find("cuMemRelease", &found.release);
    found.Find("cuMemMap", &found.map);
    found.Find("cuMemUnmap", &found.unmap);
    found.Find("cuMemSetAccess", &found.set_access);
    cudaGetLastError();  // what is not found is not an error of later calls
    return found;
  }();
  return driver;
}

absl::Status DriverStatus(CUresult result, const char* call) {
  if (result == CUDA_SUCCESS) return absl::OkStatus();
  const std::string message = absl::StrCat(call, ": error ", static_cast<int>(result));
  return result == CUDA_ERROR_OUT_OF_MEMORY ? absl::ResourceExhaustedError(message)
                                            : absl::InternalError(message);
}

CUmemLocation DeviceLocation() {
  int device = 0;
  cudaGetDevice(&device);
  CUmemLocation location = {};
  location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  location.id = device;
  return location;
}

CUmemAllocationProp PropertiesOf(MemoryTier tier) {
  CUmemAllocationProp properties = {};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location = DeviceLocation();
  if (tier == MemoryTier::kHost) {
    int node = -1;  // nearest to the device
    cudaDeviceGetAttribute(&node, cudaDevAttrHostNumaId, properties.location.id);
    properties.location.type = CU_MEM_LOCATION_TYPE_HOST_NUMA;
    properties.location.id = std::max(node, 0);
  }
  return properties;
}

}  // namespace

absl::StatusOr<int64_t> TieredRange::PartBytes() {
  const Driver& driver = TheDriver();
  if (!driver.is_complete) {
    return absl::UnimplementedError("the CUDA driver can't map memory by address (12.2 can)");
  }
  size_t most = 0;
  for (const MemoryTier tier : {MemoryTier::kDevice, MemoryTier::kHost}) {
    const CUmemAllocationProp properties = PropertiesOf(tier);
    size_t bytes = 0;
    const CUresult result =
        driver.granularity(&bytes, &properties, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
    if (result == CUDA_ERROR_NOT_SUPPORTED || result == CUDA_ERROR_INVALID_VALUE) {
      return absl::UnimplementedError("the CUDA driver can't map host memory by address");
    }
    if (absl::Status status = DriverStatus(result, "cuMemGetAllocationGranularity"); !status.ok()) {
      return status;
    }
    most = std::max(most, bytes);
  }
  return static_cast<int64_t>(most);
}

absl::StatusOr<std::unique_ptr<TieredRange>> TieredRange::Create(
    const std::vector<TierPart>& parts, absl::FunctionRef<void(int64_t)> progress) {
  if (absl::StatusOr<int64_t> granularity = PartBytes(); !granularity.ok()) {
    return granularity.status();
  }
  std::unique_ptr<TieredRange> range(new TieredRange);
  for (const TierPart& part : parts) range->bytes_ += part.bytes;
  absl::Status status =
      DriverStatus(TheDriver().reserve(&range->base_, static_cast<size_t>(range->bytes_), 0, 0, 0),
                   "cuMemAddressReserve");
  if (!status.ok()) {
    range->bytes_ = 0;
    return status;
  }
  int64_t host_bytes = 0;
  for (const TierPart& part : parts) {
    const bool is_host = part.tier == MemoryTier::kHost;
    const int64_t piece = is_host ? kHostPieceBytes : part.bytes;
    for (int64_t done = 0; done < part.bytes; done += piece) {
      const int64_t bytes = std::min(piece, part.bytes - done);
      if (status = range->Map(part, bytes); !status.ok()) return status;
      if (!is_host) continue;
      host_bytes += bytes;
      progress(host_bytes);
    }
  }
  return range;
}

// Puts memory behind the next addresses.
absl::Status TieredRange::Map(const TierPart& part, int64_t bytes) {
  const Driver& driver = TheDriver();
  const auto size = static_cast<size_t>(bytes);
  const CUdeviceptr at = base_ + static_cast<CUdeviceptr>(mapped_);
  const CUmemAllocationProp properties = PropertiesOf(part.tier);
  CUmemGenericAllocationHandle memory = 0;
  const CUresult created = driver.create(&memory, size, &properties, 0);
  if (created == CUDA_ERROR_OUT_OF_MEMORY) {
    const char* const tier = part.tier == MemoryTier::kHost ? "host" : "device";
    return absl::ResourceExhaustedError(
        absl::StrCat("the ", tier, " has no ", bytes, " bytes more for a range of ", bytes_));
  }
  if (absl::Status status = DriverStatus(created, "cuMemCreate"); !status.ok()) return status;
  absl::Status status = DriverStatus(driver.map(at, size, 0, memory, 0), "cuMemMap");
  driver.release(memory);  // which is there as long as it is mapped
  if (!status.ok()) return status;
  mapped_ += bytes;
  std::vector<CUmemAccessDesc> users = {{DeviceLocation(), CU_MEM_ACCESS_FLAGS_PROT_READWRITE}};
  if (part.tier == MemoryTier::kHost) {
    users.push_back({properties.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE});
  }
  status = DriverStatus(driver.set_access(at, size, users.data(), users.size()), "cuMemSetAccess");
  if (!status.ok()) return status;
  return CudaStatus(cudaMemset(reinterpret_cast<void*>(at), 0, size), "cudaMemset");
}

TieredRange::~TieredRange() {
  const Driver& driver = TheDriver();
  if (mapped_ > 0) driver.unmap(base_, static_cast<size_t>(mapped_));
  if (bytes_ > 0) driver.free(base_, static_cast<size_t>(bytes_));
}

}  // namespace winnow::cuda

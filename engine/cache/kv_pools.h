#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/cache/block_memory.h"
#include "kernels/backend.h"
#include "kernels/kv_view.h"

namespace winnow {

/// The device memory of all layers' keys, values and labels: the one owner of their addresses.
/// Others ask for a layer's view, or have blocks copied.
class KvPools : public BlockMemory {
 public:
  /// Pools, one of each layer's shape, whose memory is still to be taken. REQUIRES: at least one
  /// layer; all have the same block_tokens; `backend` outlives the pools.
  static std::unique_ptr<KvPools> Plan(Backend& backend, std::span<const KvShape> layers);

  /// Takes the memory, zeroed. RESOURCE_EXHAUSTED when it is short. REQUIRES: once.
  absl::Status TakeMemory();

  /// Plan and TakeMemory.
  static absl::StatusOr<std::unique_ptr<KvPools>> Allocate(Backend& backend,
                                                           std::span<const KvShape> layers);

  /// Has each layer keep so many blocks. REQUIRES: before TakeMemory.
  void SetBlocks(int blocks);

  int layers() const { return static_cast<int>(layers_.size()); }
  /// What operators of the layer read and write, once there is memory.
  const KvView& Layer(int layer) const { return layers_[static_cast<size_t>(layer)]; }

  absl::Status Copy(const BlockCopy& copy) override;

  int block_tokens() const { return layers_[0].block_tokens; }
  int blocks() const { return layers_[0].blocks; }
  /// Bytes of a block's keys, values and labels in all layers together.
  int64_t block_bytes() const;
  /// Bytes of keys and values of all layers.
  int64_t kv_bytes() const;
  /// Bytes of labels of all layers; 0 if none are kept.
  int64_t label_bytes() const;
  /// Bytes of a block's labels in all layers together.
  int64_t block_label_bytes() const;

 private:
  explicit KvPools(Backend& backend) : backend_(backend) {}

  Backend& backend_;
  std::unique_ptr<Buffer> kv_memory_;
  std::unique_ptr<Buffer> label_memory_;  ///< null: no layer keeps labels
  std::vector<KvView> layers_;
};

}  // namespace winnow

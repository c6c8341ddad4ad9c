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

/// The device memory of all layers' keys, values, labels and summaries: the one owner of their
/// addresses. Others ask for a layer's view, or have blocks copied.
///
/// A block belongs to one group of layers (KvShape::group) at a time, and holds what they keep of
/// its tokens. So groups share memory: the first layers of all groups one pool, the second ones
/// another, and so on. Summaries are of sequences, not of blocks, and every layer has its own.
class KvPools : public BlockMemory {
 public:
  /// Pools, each as large as the largest of the layers that share it, whose memory is still to be
  /// taken. REQUIRES: at least one layer; all have the same block_tokens, and those that share a
  /// pool are alike but for group, labels and summaries; `backend` outlives the pools.
  static std::unique_ptr<KvPools> Plan(Backend& backend, std::span<const KvShape> layers);

  /// Takes the memory, zeroed. RESOURCE_EXHAUSTED when it is short. REQUIRES: once.
  absl::Status TakeMemory();

  /// Plan and TakeMemory.
  static absl::StatusOr<std::unique_ptr<KvPools>> Allocate(Backend& backend,
                                                           std::span<const KvShape> layers);

  /// Has so many blocks for each group of layers. REQUIRES: before TakeMemory.
  void SetBlocks(int blocks);

  int layers() const { return static_cast<int>(layers_.size()); }
  /// What operators of the layer read and write, once there is memory.
  const KvView& Layer(int layer) const { return layers_[static_cast<size_t>(layer)]; }

  /// Has the host tier in this memory, of Backend::AllocateHost or, on the CPU, any: a slot in each
  /// slot_bytes() of it. REQUIRES: before anything is spilled.
  void SetHostMemory(std::unique_ptr<Buffer> memory);

  absl::Status Copy(const BlockCopy& copy) override;
  void Spill(std::span<const BlockInSlot> copies) override;
  void Fetch(std::span<const BlockInSlot> copies) override;

  int block_tokens() const { return layers_[0].block_tokens; }
  /// Groups of layers.
  int groups() const { return groups_; }
  /// Blocks for each group of layers.
  int blocks() const { return layers_[0].blocks / groups_; }
  /// Bytes of keys, values and labels of a block for each group.
  int64_t block_bytes() const;
  /// Bytes of a slot of the host tier: those of a block of one group.
  int64_t slot_bytes() const { return block_bytes() / groups_; }
  /// Bytes of keys and values of all blocks.
  int64_t kv_bytes() const;
  /// Bytes of labels of all blocks; 0 if none are kept.
  int64_t label_bytes() const;
  /// Bytes of summaries of all layers; 0 if none are kept.
  int64_t summary_bytes() const;
  /// Bytes of labels that there are for one block; of a group without labels, they lie idle.
  int64_t block_label_bytes() const;

 private:
  explicit KvPools(Backend& backend) : backend_(backend) {}

  Backend& backend_;
  std::unique_ptr<Buffer> kv_memory_;
  std::unique_ptr<Buffer> label_memory_;    ///< null: no layer keeps labels
  std::unique_ptr<Buffer> summary_memory_;  ///< null: no layer keeps summaries
  std::unique_ptr<Buffer> host_memory_;     ///< null: there is no host tier
  std::vector<KvView> pools_;
  std::vector<BlockPart> parts_;  ///< of a block: of each pool, keys and values, then labels
  std::vector<KvView> layers_;
  std::vector<size_t> pool_of_layer_;
  int groups_ = 0;
};

}  // namespace winnow

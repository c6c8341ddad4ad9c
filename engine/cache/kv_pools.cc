#include "engine/cache/kv_pools.h"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace winnow {

std::unique_ptr<KvPools> KvPools::Plan(Backend& backend, std::span<const KvShape> layers) {
  std::unique_ptr<KvPools> pools(new KvPools(backend));
  std::vector<size_t> layers_of_group;
  for (const KvShape& shape : layers) {
    const auto group = static_cast<size_t>(shape.group);
    if (group >= layers_of_group.size()) layers_of_group.resize(group + 1);
    const size_t pool = layers_of_group[group]++;
    if (pool == pools->pools_.size()) pools->pools_.push_back({shape});
    KvView& shared = pools->pools_[pool];
    shared.label_width = std::max(shared.label_width, shape.label_width);
    pools->layers_.push_back({shape});
    pools->pool_of_layer_.push_back(pool);
  }
  pools->groups_ = static_cast<int>(layers_of_group.size());
  return pools;
}

absl::Status KvPools::TakeMemory() {
  absl::StatusOr<std::unique_ptr<Buffer>> kv = backend_.Allocate(kv_bytes());
  if (!kv.ok()) return kv.status();
  kv_memory_ = *std::move(kv);
  if (const int64_t bytes = label_bytes(); bytes > 0) {
    absl::StatusOr<std::unique_ptr<Buffer>> labels = backend_.Allocate(bytes);
    if (!labels.ok()) return labels.status();
    label_memory_ = *std::move(labels);
  }
  if (const int64_t bytes = summary_bytes(); bytes > 0) {
    absl::StatusOr<std::unique_ptr<Buffer>> summaries = backend_.Allocate(bytes);
    if (!summaries.ok()) return summaries.status();
    summary_memory_ = *std::move(summaries);
  }
  std::byte* kv_next = kv_memory_->data();
  std::byte* label_next = label_memory_ ? label_memory_->data() : nullptr;
  for (KvView& pool : pools_) {
    pool.data = kv_next;
    kv_next += pool.bytes();
    if (pool.label_width == 0) continue;
    pool.labels = label_next;
    label_next += pool.label_bytes();
  }
  for (const KvView& pool : pools_) {
    parts_.push_back({pool.data, pool.block_bytes()});
    if (pool.labels != nullptr) parts_.push_back({pool.labels, pool.block_label_bytes()});
  }
  std::byte* summary_next = summary_memory_ ? summary_memory_->data() : nullptr;
  for (size_t i = 0; i < layers_.size(); ++i) {
    KvView& layer = layers_[i];
    const KvView& pool = pools_[pool_of_layer_[i]];
    layer.data = pool.data;
    if (layer.label_width > 0) layer.labels = pool.labels;
    if (layer.summary_slots == 0) continue;
    layer.summaries = reinterpret_cast<float*>(summary_next);
    summary_next += layer.summary_bytes();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<KvPools>> KvPools::Allocate(Backend& backend,
                                                           std::span<const KvShape> layers) {
  std::unique_ptr<KvPools> pools = Plan(backend, layers);
  if (absl::Status status = pools->TakeMemory(); !status.ok()) return status;
  return pools;
}

void KvPools::SetBlocks(int blocks) {
  for (KvView& pool : pools_) pool.blocks = blocks * groups_;
  for (KvView& layer : layers_) layer.blocks = blocks * groups_;
}

void KvPools::SetHostMemory(std::unique_ptr<Buffer> memory) { host_memory_ = std::move(memory); }

void KvPools::Spill(std::span<const BlockInSlot> copies) {
  backend_.CopyToSlots({parts_, host_memory_->data(), copies});
}

void KvPools::Fetch(std::span<const BlockInSlot> copies) {
  backend_.CopyFromSlots({parts_, host_memory_->data(), copies});
}

absl::Status KvPools::Copy(const BlockCopy& copy) {
  for (const KvView& pool : pools_) {
    const int64_t bytes =
        copy.tokens * pool.token_elements() * static_cast<int64_t>(sizeof(uint16_t));
    for (int g = 0; g < pool.kv_heads; ++g) {
      backend_.Copy(reinterpret_cast<std::byte*>(pool.key(copy.to, g, 0)),
                    reinterpret_cast<const std::byte*>(pool.key(copy.from, g, 0)), bytes);
    }
    // Labels of several tokens interleave; those past copy.tokens are overwritten later.
    if (pool.labels != nullptr) {
      backend_.Copy(pool.label_block(copy.to), pool.label_block(copy.from),
                    pool.block_label_bytes());
    }
  }
  return backend_.Synchronize();
}

int64_t KvPools::block_bytes() const {
  int64_t bytes = 0;
  for (const KvView& pool : pools_) bytes += pool.block_bytes() + pool.block_label_bytes();
  return groups_ * bytes;
}

int64_t KvPools::kv_bytes() const {
  int64_t bytes = 0;
  for (const KvView& pool : pools_) bytes += pool.bytes();
  return bytes;
}

int64_t KvPools::label_bytes() const {
  int64_t bytes = 0;
  for (const KvView& pool : pools_) bytes += pool.label_bytes();
  return bytes;
}

int64_t KvPools::summary_bytes() const {
  int64_t bytes = 0;
  for (const KvView& layer : layers_) bytes += layer.summary_bytes();
  return bytes;
}

int64_t KvPools::block_label_bytes() const {
  int64_t bytes = 0;
  for (const KvView& pool : pools_) bytes += pool.block_label_bytes();
  return bytes;
}

}  // namespace winnow

#include "engine/cache/kv_pools.h"

#include <cstddef>
#include <utility>

namespace winnow {

std::unique_ptr<KvPools> KvPools::Plan(Backend& backend, std::span<const KvShape> layers) {
  std::unique_ptr<KvPools> pools(new KvPools(backend));
  for (const KvShape& shape : layers) pools->layers_.push_back({shape});
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
  std::byte* kv_next = kv_memory_->data();
  std::byte* label_next = label_memory_ ? label_memory_->data() : nullptr;
  for (KvView& layer : layers_) {
    layer.data = kv_next;
    kv_next += layer.bytes();
    if (layer.label_width == 0) continue;
    layer.labels = label_next;
    label_next += layer.label_bytes();
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
  for (KvView& layer : layers_) layer.blocks = blocks;
}

absl::Status KvPools::Copy(const BlockCopy& copy) {
  for (const KvView& layer : layers_) {
    const int64_t bytes =
        copy.tokens * layer.token_elements() * static_cast<int64_t>(sizeof(uint16_t));
    for (int g = 0; g < layer.kv_heads; ++g) {
      backend_.Copy(reinterpret_cast<std::byte*>(layer.key(copy.to, g, 0)),
                    reinterpret_cast<const std::byte*>(layer.key(copy.from, g, 0)), bytes);
    }
    // Labels of several tokens interleave; those past copy.tokens are overwritten later.
    if (layer.labels != nullptr) {
      backend_.Copy(layer.label_block(copy.to), layer.label_block(copy.from),
                    layer.block_label_bytes());
    }
  }
  return backend_.Synchronize();
}

int64_t KvPools::block_bytes() const {
  int64_t bytes = 0;
  for (const KvView& layer : layers_) bytes += layer.block_bytes() + layer.block_label_bytes();
  return bytes;
}

int64_t KvPools::kv_bytes() const {
  int64_t bytes = 0;
  for (const KvView& layer : layers_) bytes += layer.bytes();
  return bytes;
}

int64_t KvPools::label_bytes() const {
  int64_t bytes = 0;
  for (const KvView& layer : layers_) bytes += layer.label_bytes();
  return bytes;
}

int64_t KvPools::block_label_bytes() const {
  int64_t bytes = 0;
  for (const KvView& layer : layers_) bytes += layer.block_label_bytes();
  return bytes;
}

}  // namespace winnow

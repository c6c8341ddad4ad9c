#pragma once

#include <cstddef>
#include <cstdint>

namespace winnow {

/// Geometry and memory of the KV pool. Layout: [layers, blocks, kv_heads, block_tokens, 2 (K then
/// V), head_dim] in fp16. Key and value of a token lie side by side, so that fetching a selected
/// one costs one access to a random page, not two.
struct KvCache {
  std::byte* data = nullptr;
  int layers = 0;
  int blocks = 0;
  int kv_heads = 0;
  int block_tokens = 0;
  int head_dim = 0;

  int64_t token_elements() const { return int64_t{2} * head_dim; }  ///< of one head
  int64_t head_block_elements() const { return block_tokens * token_elements(); }
  int64_t block_bytes() const {  ///< of one block in one layer, keys and values
    return kv_heads * head_block_elements() * static_cast<int64_t>(sizeof(uint16_t));
  }
  int64_t bytes() const { return int64_t{layers} * blocks * block_bytes(); }
  std::byte* block(int layer, int id) const {
    return data + (int64_t{layer} * blocks + id) * block_bytes();
  }
  /// Where the key of a token of the block begins; its value follows, head_dim elements on.
  uint16_t* key(int layer, int id, int kv_head, int slot) const {
    return reinterpret_cast<uint16_t*>(block(layer, id)) + kv_head * head_block_elements() +
           slot * token_elements();
  }
};

}  // namespace winnow

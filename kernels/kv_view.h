#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/summary.h"

namespace winnow {

/// Sizes of what one layer keeps of the tokens of its KV blocks: keys and values, and labels beside
/// them under the same block ids.
struct KvShape {
  int blocks = 0;
  int kv_heads = 0;
  int block_tokens = 0;  ///< a power of two; a multiple of 16 if there are labels
  int head_dim = 0;
  /// Numbers of a label: a multiple of 8, at most kMaxLabelWidth; 0: no labels are kept.
  int label_width = 0;
  /// Slots for summaries of sequences, where labels are kept; 0: none are.
  int summary_slots = 0;
  int group = 0;  ///< whose block table of a step leads to the blocks (StepBatch::BlockTable)

  int64_t token_elements() const { return int64_t{2} * head_dim; }  ///< of one head
  int64_t head_block_elements() const { return block_tokens * token_elements(); }
  int64_t block_bytes() const {  ///< of keys and values
    return kv_heads * head_block_elements() * static_cast<int64_t>(sizeof(uint16_t));
  }
  int64_t bytes() const { return blocks * block_bytes(); }  ///< of keys and values
  int64_t head_block_label_bytes() const { return int64_t{block_tokens} * label_width / 2; }
  int64_t block_label_bytes() const { return kv_heads * head_block_label_bytes(); }
  int64_t label_bytes() const { return blocks * block_label_bytes(); }
  SummaryShape summary_shape() const { return {label_width, head_dim}; }
  int64_t summary_bytes() const {
    return summary_slots * kv_heads * summary_shape().floats() *
           static_cast<int64_t>(sizeof(float));
  }
};

/// The KV memory of one layer. Keys and values: [blocks, kv_heads, block_tokens, 2 (K then V),
/// head_dim] in fp16; key and value of a token lie side by side, so that fetching a selected one
/// costs one access to a random page, not two. Labels: 4-bit codes [blocks, kv_heads, block_tokens,
/// label_width]; how those of one head lie within a block is the backend's choice.
struct KvView : KvShape {
  std::byte* data = nullptr;
  std::byte* labels = nullptr;  ///< null: no labels are kept
  float* summaries = nullptr;   ///< [summary_slots, kv_heads] of summary_shape(), or null

  std::byte* block(int id) const { return data + id * block_bytes(); }
  std::byte* label_block(int id) const { return labels + id * block_label_bytes(); }
  /// Where the key of a token of the block begins; its value follows, head_dim elements on.
  uint16_t* key(int id, int kv_head, int slot) const {
    return reinterpret_cast<uint16_t*>(block(id)) + kv_head * head_block_elements() +
           slot * token_elements();
  }
  float* summary(int slot, int kv_head) const {
    return summaries + (int64_t{slot} * kv_heads + kv_head) * summary_shape().floats();
  }
  /// Where the labels of a head's tokens of the block begin.
  uint8_t* head_labels(int id, int kv_head) const {
    return reinterpret_cast<uint8_t*>(label_block(id)) + kv_head * head_block_label_bytes();
  }
};

}  // namespace winnow

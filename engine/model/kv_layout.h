#pragma once

#include <vector>

#include "engine/model/config.h"
#include "kernels/kv_view.h"

namespace winnow {

/// How much of a sequence a model's layers keep.
struct KvOptions {
  int blocks = 0;
  int block_tokens = 0;  ///< divides 256
  int label_width = 0;   ///< LabelFile::width if labels are kept beside all keys, else 0
};

/// What each of the model's layers keeps: the same, whole contexts, but labels only where rows may
/// select, in layers without a sliding window.
std::vector<KvShape> KvLayout(const ModelConfig& config, const KvOptions& options);

}  // namespace winnow

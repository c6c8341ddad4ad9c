#include "engine/model/gguf_mixture.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/model/config_limits.h"
#include "kernels/expert_routes.h"

namespace winnow {
namespace {

constexpr int kSoftmaxGating = 1;  // as llama.cpp numbers the functions; 0 says nothing
/// An expert's weights in files from before they were stacked.
constexpr char kSingleExpertTensor[] = "blk.0.ffn_gate.0.weight";

template <typename... Parts>
absl::Status Unimplemented(const GgufFile& file, const Parts&... parts) {
  return absl::UnimplementedError(absl::StrCat(file.path(), ": ", parts...));
}

}  // namespace

absl::Status ReadGgufMixture(const GgufFile& file, MetadataFields& fields, ModelConfig& config) {
  MixtureConfig& mixture = config.mixture;
  mixture.experts = fields.Int("expert_count", 0, kMaxExperts, 0);
  if (mixture.experts == 0) return fields.status();
  mixture.chosen = fields.Int("expert_used_count", 1, std::min(mixture.experts, kMaxChosenExperts));
  mixture.ffn = fields.Int("expert_feed_forward_length", 1, kMaxWidth, config.ffn);
  const double scale = fields.Float("expert_weights_scale", -1e6, 1e6, 1);
  const int gating = fields.Int("expert_gating_func", 0, 1024, kSoftmaxGating);
  if (!fields.status().ok()) return fields.status();
  mixture.normalizes = file.GetBool(fields.FullKey("expert_weights_norm")).value_or(true);
  if (scale != 1 && scale != 0) {
    return Unimplemented(file, "scaled weights of experts (metadata key ",
                         fields.FullKey("expert_weights_scale"), " is ", scale,
                         ") are not supported");
  }
  if (gating != kSoftmaxGating && gating != 0) {
    return Unimplemented(file, "the metadata key ", fields.FullKey("expert_gating_func"), " is ",
                         gating, "; experts are weighted by a softmax (", kSoftmaxGating, ") only");
  }
  if (file.FindTensor(kSingleExpertTensor) != nullptr) {
    return Unimplemented(file, "each expert's weights are a tensor of their own (",
                         kSingleExpertTensor,
                         "), as in files from before April 2024; convert the model again");
  }
  return absl::OkStatus();
}

}  // namespace winnow

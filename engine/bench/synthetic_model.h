#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "engine/model/weight_source.h"

namespace winnow {

/// Random weights in the shapes of a known model: speed without a download.
class SyntheticModel : public WeightSource {
 public:
  /// "synthetic:llama-2-7b", ...
  static std::vector<std::string> Names();
  /// True for what begins with "synthetic:".
  static bool IsName(std::string_view model);
  /// With its first `layers` layers, or all if that is 0. INVALID_ARGUMENT when the name is none of
  /// Names().
  static absl::StatusOr<std::unique_ptr<SyntheticModel>> Make(std::string_view name, int layers);

  const ModelConfig& config() const { return config_; }
  HostWeight Weight(std::string_view name) const override;
  void ReleasePages() const override {}

 private:
  explicit SyntheticModel(const ModelConfig& config);

  ModelConfig config_;
  std::map<std::string, std::vector<int64_t>, std::less<>> shapes_;
  std::vector<uint16_t> numbers_;  ///< bf16; all matrices begin with the same ones
  std::vector<float> ones_;        ///< the norms' weights
};

}  // namespace winnow

#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/checkpoint.h"
#include "kernels/selection.h"

namespace winnow {

/// What calibration found for one model: how keys become labels (the label basis), how the budget
/// is spread over the heads, and how much what they do not choose counts. Written and read as JSON;
/// docs/label-file.md describes the format.
struct LabelFile {
  /// One layer's basis in natural units:
  ///   label z = B k (width numbers), approximate score = scale (A q) . z, with the layer's scale.
  /// Layers with a sliding window keep no labels: all of theirs are empty.
  struct Layer {
    bool empty() const { return key.empty(); }

    std::vector<float> query;  ///< A, transposed: [kv_heads, head_dim, width]
    std::vector<float> key;    ///< B, transposed: [kv_heads, head_dim, width]
    std::vector<float> low;    ///< [kv_heads, width] value of B k that code 0 stands for
    std::vector<float> high;   ///< [kv_heads, width] value of B k that code 15 stands for
  };

  std::string architecture;
  std::string model_name;         ///< for people
  std::string model_fingerprint;  ///< of the weights that make keys and queries
  int kv_heads = 0;
  int head_dim = 0;
  int width = 0;               ///< numbers of a label: a multiple of 8, at most 64 and head_dim
  std::string basis;           ///< "projection" or "channels"
  std::string ranking;         ///< of channels: "qk-centred", "qk", "q", "k", or "imported"
  std::string text_hash;       ///< of the calibration text
  int calibrated_context = 0;  ///< positions from 0 that calibration has seen
  std::vector<Layer> layers;
  /// [layers, kv_heads] share of the budget of each KV head that has labels, mean 1; all 1 when not
  /// measured.
  std::vector<float> budget_weights;
  /// [layers, kv_heads], from 0 to 1: how much what a KV head does not choose counts, by an
  /// estimate (kernels/selection.h, TailWeight); empty: it is left out, as by files of version 1.
  std::vector<float> tail_weights;
  /// The n of the sparsity 1/n that the weights were spread for; 0 when not measured.
  double budget_sparsity = 0;

  /// Reads a file and checks that it fits the model. INVALID_ARGUMENT says what is malformed, or
  /// in what the file and the model differ; NOT_FOUND when there is no such file.
  static absl::StatusOr<LabelFile> Read(const std::string& path, const Checkpoint& model);

  /// Writes the file, of version 2 if it has tail weights, else of version 1. Matrices and ranges
  /// are kept in fp16, weights to four decimals. INVALID_ARGUMENT when a number is not finite in
  /// fp16.
  absl::Status Write(const std::string& path) const;
};

/// The label widths that can be stored: packed labels of a KV head fill whole 32-bit words.
constexpr int kLabelWidthMultiple = 8;

}  // namespace winnow

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/model/config.h"

namespace winnow {

/// A tensor that a model consists of.
struct TensorSpec {
  std::string name;            ///< in GGUF files
  std::vector<int64_t> shape;  ///< outermost first
};

/// Names of the matrices that one product multiplies with, stacked along their rows.
struct LinearSpec {
  std::vector<std::string> weights;
  std::vector<std::string> biases;  ///< one for each matrix, or none
};

/// Names of an attention module's tensors. Those that a family does without are empty.
struct AttentionSpec {
  std::string norm;
  LinearSpec qkv;          ///< queries, then keys, then values
  std::string query_norm;  ///< of a head
  std::string key_norm;    ///< likewise
  LinearSpec output;
  std::string post_norm;
};

/// Names of a feed-forward module's tensors. Those that a family does without are empty.
struct FeedForwardSpec {
  std::string norm;
  LinearSpec gate_up;  ///< the gate, then what it is multiplied with
  LinearSpec down;
  std::string post_norm;
};

/// Names of the tensors of a layer of experts, whose matrices are stacked: [experts, rows,
/// columns].
struct ExpertSpec {
  std::string norm;
  LinearSpec router;                 ///< [experts, hidden]
  std::vector<std::string> gate_up;  ///< of an expert [ffn, hidden]: gate, up
  std::vector<std::string> down;     ///< of an expert [hidden, ffn]
};

struct BlockSpec {
  AttentionSpec attention;
  FeedForwardSpec feed_forward;       ///< empty where there are experts
  std::optional<ExpertSpec> experts;  ///< in place of the feed-forward network
};

/// The tensors of a model: each is listed once, in ModelSpec::Of, with its name, shape and place.
/// Files are checked against the list, modules are loaded by the names in their places.
struct ModelSpec {
  std::string embedding;
  std::vector<BlockSpec> blocks;  ///< [layers]
  std::string output_norm;
  LinearSpec output;  ///< the embedding's when they are tied

  /// All of them, in the order of the forward pass.
  std::vector<TensorSpec> tensors;

  /// The spec of a model of this configuration. Reads its sizes and what says which tensors there
  /// are.
  static ModelSpec Of(const ModelConfig& config);
};

}  // namespace winnow

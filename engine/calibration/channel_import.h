#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/config.h"

namespace winnow {

/// Channels of each KV head, most telling first: [layers, kv_heads][head_dim].
using ChannelRanking = std::vector<std::vector<int>>;

/// Reads a channel file of the Double Sparsity project: a JSON object with, under
/// "model.layers.N.self_attn.{q,k,qk}_proj", one permutation of the channels per head, most telling
/// first. `which` ("q", "k" or "qk") chooses the lists.
///
/// Lists of query heads become one per KV head by the mean of a channel's places in the lists of
/// the group; of equals the lower channel goes first. Channel numbers are those of Hugging Face
/// checkpoints, which rotate channel c with c + head_dim / 2; they are mapped to the order of the
/// model's file. INVALID_ARGUMENT says what is malformed or does not fit the model, NOT_FOUND that
/// there is no such file.
absl::StatusOr<ChannelRanking> ImportChannelRanking(const std::string& path,
                                                    const ModelConfig& config,
                                                    const std::string& which);

}  // namespace winnow

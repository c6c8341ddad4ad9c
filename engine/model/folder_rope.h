#pragma once

#include "engine/model/config.h"
#include "engine/model/json_fields.h"

namespace winnow {

/// Reads what a config.json says of RoPE into `config.ropes`, whose architecture, head_dim and
/// max_context are set: rope_theta, partial_rotary_factor and rope_scaling, or the newer
/// rope_parameters, which hold all of it. Gemma 3 has a second one, for layers with windows.
/// Where scaling makes the context longer than max_position_embeddings, max_context grows.
/// Of longrope's factors those are taken that sequences of up to `context` tokens need, 0: of up to
/// max_context.
/// Failures are kept by `fields`.
void ReadFolderRope(JsonFields& fields, int context, ModelConfig& config);

}  // namespace winnow

#pragma once

#include <cstdint>
#include <vector>

#include "engine/request/request.h"
#include "server/session/call_status.h"
#include "server/session/served_model.h"
#include "winnow/v1/generation.pb.h"
#include "winnow/v1/tokenizer.pb.h"

namespace winnow {

/// What Engine::CheckOutline looks at, taken from the message unchecked: out-of-range values count
/// as the nearest possible ones.
Request Outline(const v1::GenerateRequest& in, const ServedModel& model);

/// Turns the request into the engine's form, without id, client and deadline, and returns all that
/// is wrong with it; `out` is complete only if that is nothing.
std::vector<FieldViolation> ValidateGenerate(const v1::GenerateRequest& in,
                                             const ServedModel& model, Request* out);

/// The same for Tokenize and Detokenize. `tokens` receives the tokens of the input.
std::vector<FieldViolation> ValidateTokenize(const v1::TokenizeRequest& in,
                                             const ServedModel& model,
                                             std::vector<int32_t>* tokens);
std::vector<FieldViolation> ValidateDetokenize(const v1::DetokenizeRequest& in,
                                               const ServedModel& model);

}  // namespace winnow

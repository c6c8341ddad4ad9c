#pragma once

#include <atomic>
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
/// is wrong with it; `out` is complete only if that is nothing. Returns soon once `cancelled` is
/// set; then nothing of the result means anything.
std::vector<FieldViolation> ValidateGenerate(const v1::GenerateRequest& in,
                                             const ServedModel& model,
                                             const std::atomic<bool>& cancelled, Request* out);

/// What is wrong with a valid request if its answer is to be one message: that this would probably
/// be larger than it may.
std::vector<FieldViolation> CheckAnswer(const Request& request, const ServedModel& model);

/// All that is wrong with the request.
std::vector<FieldViolation> ValidateDetokenize(const v1::DetokenizeRequest& in,
                                               const ServedModel& model);

}  // namespace winnow

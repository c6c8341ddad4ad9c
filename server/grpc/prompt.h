#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/request/request.h"
#include "server/grpc/field_checker.h"
#include "server/session/call_status.h"
#include "server/session/served_model.h"
#include "winnow/v1/generation.pb.h"
#include "winnow/v1/tokenizer.pb.h"

namespace winnow {

// What turns prompts into tokens, the part of a message that takes long. Returns soon once
// `cancelled` is set; then nothing of a result means anything.

/// Bytes of text that the message wants tokenized.
size_t TextBytes(const v1::GenerateRequest& in);
size_t TextBytes(const v1::TokenizeRequest& in);

/// Sets the request's prompt and max_tokens, and adds what is wrong with them. A text that must
/// become too many tokens, whatever it holds, is not tokenized.
void ReadPrompt(const v1::GenerateRequest& in, const ServedModel& model,
                const std::atomic<bool>& cancelled, Checker& checker, Request* out);

/// The tokens of the input, and all that is wrong with the request.
std::vector<FieldViolation> ReadInput(const v1::TokenizeRequest& in, const ServedModel& model,
                                      const std::atomic<bool>& cancelled,
                                      std::vector<int32_t>* tokens);

}  // namespace winnow

#pragma once

#include <cstdint>
#include <vector>

#include "engine/request/request.h"
#include "engine/text/tokenizer.h"
#include "winnow/v1/generation.pb.h"

namespace winnow {

/// Adds outputs to a response: pieces of the same continuation are joined to one entry.
void AppendOutputs(const std::vector<Output>& outputs, const Tokenizer& tokenizer,
                   v1::GenerateResponse* response);

/// Bytes that the outputs take in a response, nearly.
int64_t ResponseBytes(const std::vector<Output>& outputs, const Tokenizer& tokenizer);

/// Bytes that a whole response of the request would take, were all tokens as long as the mean one.
double ExpectedResponseBytes(const Request& request, double mean_token_bytes);

/// Sets what the request used and how long it took.
void SetSummary(const RequestSummary& summary, v1::GenerateResponse* response);

/// "stop", "length", "cancelled".
const char* FinishReasonName(v1::FinishReason reason);

}  // namespace winnow

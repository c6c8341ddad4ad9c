#pragma once

#include <vector>

#include "engine/request/request.h"
#include "engine/text/tokenizer.h"
#include "winnow/v1/generation.pb.h"

namespace winnow {

/// Adds outputs to a response: pieces of the same continuation are joined to one entry.
void AppendOutputs(const std::vector<Output>& outputs, const Tokenizer& tokenizer,
                   v1::GenerateResponse* response);

/// Sets what the request used and how long it took.
void SetSummary(const RequestSummary& summary, v1::GenerateResponse* response);

/// "stop", "length", "cancelled".
const char* FinishReasonName(v1::FinishReason reason);

}  // namespace winnow

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/request/request.h"
#include "server/session/served_model.h"
#include "winnow/v1/generation.pb.h"
#include "winnow/v1/tokenizer.pb.h"

namespace winnow {

// Most that one request may ask for, besides ServedModel::limits. ModelService.GetModel reports
// both, but for the salt; of priorities also the least, ServedModel::min_priority.
inline constexpr int kMaxStopStringBytes = 256;
inline constexpr int kMaxStopTokenIds = 64;
inline constexpr int kMaxTopLogprobs = 20;
inline constexpr size_t kMaxSaltBytes = 256;
inline constexpr int kMaxPriority = 100;
/// Tokens that a request gets when it doesn't say, if the context leaves that many.
inline constexpr int kDefaultMaxTokens = 256;

/// One thing that is wrong with a request.
struct FieldViolation {
  std::string field;        ///< path in the request message, such as "stop.strings[2]"
  std::string description;  ///< a sentence that names the limit
};

/// NOT_FOUND unless `name` is empty or that of the served model.
absl::Status CheckModelName(const std::string& name, const ServedModel& model);

/// Continuations that a request may have, and tokens of its prompt.
int MaxContinuations(const ServedModel& model);
int MaxPromptTokens(const ServedModel& model);

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

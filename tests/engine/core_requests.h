// Requests to an EngineCore of a small KV cache, and what must become of them.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/request/engine_options.h"
#include "engine/request/request.h"
#include "tests/engine/fakes.h"

namespace winnow {

/// Blocks of 4 tokens, `blocks` of them; a context of 128 tokens, steps of 16, 8 sequences at a
/// time.
EngineOptions Options(int blocks = 64);

/// `length` tokens that differ; prompts of another `first` have another prefix.
std::vector<int32_t> Prompt(int length, int first = 0);

/// Goes on for `max_tokens` tokens whatever they are.
Request Greedy(uint64_t id, std::vector<int32_t> prompt, int max_tokens);

/// As Greedy, at temperature 1 with a seed of its own, and n continuations.
Request Sampled(uint64_t id, std::vector<int32_t> prompt, int max_tokens, int n = 1);

/// Expects of each continuation what ReferenceContinuation gives.
void ExpectAsReference(const CoreBench& bench, const Request& request, const RecordingSink& sink);

}  // namespace winnow

#pragma once

#include <span>
#include <string>

namespace winnow {

// What `winnow eval` can measure; arguments and result as those of RunEval.
int RunEvalPerplexity(std::span<const std::string> arguments);
int RunEvalRetrieval(std::span<const std::string> arguments);
int RunEvalChoice(std::span<const std::string> arguments);
int RunEvalGenerate(std::span<const std::string> arguments);
int RunEvalRecall(std::span<const std::string> arguments);
int RunEvalLocality(std::span<const std::string> arguments);

}  // namespace winnow

#include <cstdio>
#include <span>
#include <string>

#include "server/commands/commands.h"
#include "server/commands/eval_commands.h"

namespace winnow {

int RunEval(std::span<const std::string> arguments) {
  constexpr const char* kUsage =
      "Measures what an attention policy costs in accuracy, and how local its choices are.\n\n"
      "Usage: winnow eval perplexity|retrieval|choice|generate|recall|locality [flags]\n\n"
      "  perplexity  How well a text is predicted\n"
      "  retrieval   How often a number in a long prompt is found again\n"
      "  choice      How often the right one of several choices is the likeliest\n"
      "  generate    How near answers about long texts are to those expected\n"
      "  recall      How much of the softmax selections hold, head by head\n"
      "  locality    How many of the tokens that a step selects others select, too\n\n"
      "`winnow eval perplexity --help` shows the flags.\n";
  const std::string name = arguments.empty() ? "" : arguments[0];
  if (name == "perplexity") return RunEvalPerplexity(arguments.subspan(1));
  if (name == "retrieval") return RunEvalRetrieval(arguments.subspan(1));
  if (name == "choice") return RunEvalChoice(arguments.subspan(1));
  if (name == "generate") return RunEvalGenerate(arguments.subspan(1));
  if (name == "recall") return RunEvalRecall(arguments.subspan(1));
  if (name == "locality") return RunEvalLocality(arguments.subspan(1));
  const bool help = name == "--help" || name == "-h";
  std::fputs(kUsage, help ? stdout : stderr);
  return help ? 0 : 2;
}

}  // namespace winnow

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "server/base/version.h"
#include "server/commands/commands.h"

namespace winnow {
namespace {

int RunVersion(std::span<const std::string> /*arguments*/) {
  std::printf("winnow %s\n", kVersion);
  return 0;
}

struct Command {
  const char* name;
  const char* summary;
  int (*run)(std::span<const std::string> arguments);
};

constexpr Command kCommands[] = {
    {"serve", "Serve a model over gRPC", RunServe},
    {"generate", "Stream a completion from a server to the terminal", RunGenerate},
    {"calibrate", "Find how a model's keys become labels, from a text", RunCalibrate},
    {"eval", "Measure what an attention policy costs in accuracy", RunEval},
    {"bench", "Measure attention, decode and prefill speed", RunBench},
    {"inspect", "Tell what is in a model file, and the memory that it takes", RunInspect},
    {"health", "Ask a server whether it serves", RunHealth},
    {"version", "Print the version", RunVersion},
};

void PrintUsage(std::FILE* out) {
  std::fputs("Winnow serves large language models over gRPC.\n\nUsage: winnow COMMAND [flags]\n\n",
             out);
  for (const Command& command : kCommands) {
    std::fprintf(out, "  %-10s %s\n", command.name, command.summary);
  }
  std::fputs("\n`winnow COMMAND --help` shows the flags of a command.\n", out);
}

int Main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.empty()) {
    PrintUsage(stderr);
    return 2;
  }
  const std::string& name = arguments[0];
  if (name == "--help" || name == "-h" || name == "help") {
    PrintUsage(stdout);
    return 0;
  }
  const auto* command =
      std::find_if(std::begin(kCommands), std::end(kCommands),
                   [&](const Command& candidate) { return name == candidate.name; });
  if (command == std::end(kCommands)) {
    std::fprintf(stderr, "winnow: unknown command %s (see winnow --help)\n", name.c_str());
    return 2;
  }
  return command->run(std::span(arguments).subspan(1));
}

}  // namespace
}  // namespace winnow

int main(int argc, char** argv) { return winnow::Main(argc, argv); }

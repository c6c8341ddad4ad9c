#pragma once

#include <span>
#include <string>

namespace winnow {

// The subcommands of the binary. Each takes the arguments after its name and returns the code to
// exit with: 0, 1 for a failure (one line on stderr), 2 for bad arguments.
int RunServe(std::span<const std::string> arguments);
int RunGenerate(std::span<const std::string> arguments);
int RunCalibrate(std::span<const std::string> arguments);
int RunInspect(std::span<const std::string> arguments);
int RunEval(std::span<const std::string> arguments);
int RunBench(std::span<const std::string> arguments);
int RunHealth(std::span<const std::string> arguments);

}  // namespace winnow

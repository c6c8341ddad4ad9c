// Flags and a config file: arguments, one a line, and behind a zero byte the contents of the file.

#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/check.h"
#include "server/commands/flags.h"
#include "tests/fuzz/memory_file.h"

namespace winnow {
namespace {

/// One flag of each type.
struct Values {
  bool on = false;
  int count = 3;
  int64_t bytes = 0;
  double share = 0.5;
  std::string name = "default";
  std::string device = "cpu";
  std::optional<int> limit;
  std::optional<double> ratio;
  std::optional<uint64_t> seed;
  std::vector<std::string> lines;
  std::string file;
};

void Declare(FlagSet& set, Values& values) {
  set.Add("on", &values.on, "", "Switches.");
  set.Add("count", &values.count, "N", "Counts.", {1, 64});
  set.Add("bytes", &values.bytes, "BYTES", "Weighs.", {0, 1e15});
  set.Add("share", &values.share, "SHARE", "Divides.", {0, 1});
  set.Add("name", &values.name, "NAME", "Names.");
  set.AddChoice("device", &values.device, {"cpu", "cuda"}, "Chooses.");
  set.Add("limit", &values.limit, "N", "Limits.", {-5, 5});
  set.Add("ratio", &values.ratio, "X", "Relates.");
  set.Add("seed", &values.seed, "N", "Seeds.");
  set.Add("line", &values.lines, "TEXT", "Repeats.");
  set.AddPositional("FILE", &values.file, "Is required.");
  set.AddConfig();
}

void CheckValues(const Values& values) {
  WINNOW_CHECK(values.count >= 1 && values.count <= 64);
  WINNOW_CHECK(values.bytes >= 0 && values.bytes <= 1'000'000'000'000'000);
  WINNOW_CHECK(values.share >= 0 && values.share <= 1);
  WINNOW_CHECK(values.device == "cpu" || values.device == "cuda");
  WINNOW_CHECK(!values.limit || (*values.limit >= -5 && *values.limit <= 5));
  WINNOW_CHECK(!values.ratio || std::isfinite(*values.ratio));
}

std::vector<std::string> Lines(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    lines.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return lines;
}

}  // namespace
}  // namespace winnow

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace winnow;
  static MemoryFile config;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = input.find('\0');
  std::vector<std::string> arguments = Lines(input.substr(0, zero));
  for (const std::string& argument : arguments) {
    // Names of files of this machine: not what is tested.
    if (argument.rfind("--config", 0) == 0) return 0;
  }
  if (zero != std::string_view::npos) {
    config.Set(std::as_bytes(std::span(input.substr(zero + 1))));
    arguments.insert(arguments.begin(), {"--config", config.path()});
  }

  Values values;
  FlagSet set("winnow test", "Tests.");
  Declare(set, values);
  const absl::Status status = set.Parse(arguments);
  if (status.ok() && !set.help_requested()) {
    CheckValues(values);
    WINNOW_CHECK(set.IsSet("count") || values.count == 3);
    WINNOW_CHECK(set.IsSet("line") == !values.lines.empty());
  }
  // One line says what is wrong.
  WINNOW_CHECK(status.message().find('\n') == std::string::npos);
  WINNOW_CHECK(set.Help().size() < 10'000);
  return 0;
}

#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace winnow {

/// The flags of one subcommand: declared once, with name, type, default and help, and read from the
/// command line and perhaps a config file. The declared variables hold the defaults before Parse
/// and the values after it.
///
///     FlagSet flags("winnow health", "Asks a server whether it serves.");
///     flags.Add("address", &address, "HOST:PORT", "Where the server listens.");
///     if (std::optional<int> exit_code = ParseOrExitCode(flags, args)) return *exit_code;
class FlagSet {
 public:
  /// What a flag writes to. Optional values have no default; a vector takes the flag repeatedly.
  using Target =
      std::variant<bool*, int*, int64_t*, double*, std::string*, std::optional<int>*,
                   std::optional<double>*, std::optional<uint64_t>*, std::vector<std::string>*>;

  /// Smallest and largest value that a numeric flag accepts.
  struct Range {
    double min = std::numeric_limits<double>::lowest();
    double max = std::numeric_limits<double>::max();
  };

  /// `command` as it is typed, such as "winnow serve"; `summary` one sentence for --help.
  FlagSet(std::string command, std::string summary);

  /// Declares `--name`. `unit` stands for the value in --help ("TOKENS"); booleans have none.
  /// REQUIRES: what `target` points to outlives this object.
  void Add(std::string name, Target target, std::string unit, std::string help);
  void Add(std::string name, Target target, std::string unit, std::string help, Range range);
  /// The same for a string that must be one of `choices`.
  void AddChoice(std::string name, std::string* target, std::vector<std::string> choices,
                 std::string help);

  /// The same for a number that may be given as a word, such as "auto": then it is 0.
  void AddNumberOr(std::string word, std::string name, int* target, std::string unit,
                   std::string help, Range range);

  /// Declares a positional argument, all of which are required, in order.
  void AddPositional(std::string name, std::string* target, std::string help);

  /// Declares `--config FILE`: a file with the same names as the flags, one `name = value` or
  /// `name: value` a line, `#` starting a comment. Flags on the command line win.
  void AddConfig();

  /// Reads the arguments that follow the subcommand: `--name value`, `--name=value`, booleans also
  /// as `--name` alone. INVALID_ARGUMENT says in one line what is wrong.
  absl::Status Parse(std::span<const std::string> arguments);

  /// True once Parse has met --help; then the other arguments were not looked at.
  bool help_requested() const { return help_requested_; }
  bool IsSet(std::string_view name) const;  ///< given on the command line or in the config file
  std::string Help() const;
  const std::string& command() const { return command_; }

 private:
  struct Flag {
    std::string name;
    Target target;
    std::string unit;
    std::string help;
    Range range;
    std::vector<std::string> choices;
    std::string zero_word;  ///< empty: there is none
    std::string default_text;
    bool is_set = false;
  };
  struct Positional {
    std::string name;
    std::string* target;
    std::string help;
  };

  Flag* Find(std::string_view name);
  absl::Status Set(Flag& flag, const std::string& text);
  absl::Status ReadConfigFile(const std::string& path);

  std::string command_;
  std::string summary_;
  std::vector<Flag> flags_;
  std::vector<Positional> positionals_;
  std::string config_path_;
  bool help_requested_ = false;
};

/// Parses, and handles --help (printed to stdout, 0) and errors (one line to stderr, 2): the code
/// to exit with, or nothing when the command should go on.
std::optional<int> ParseOrExitCode(FlagSet& flags, std::span<const std::string> arguments);

/// Prints "<command>: <message>" to stderr, control characters escaped so that it is one line on
/// any terminal, and returns 1, for a subcommand that failed.
int Fail(const FlagSet& flags, const absl::Status& status);

}  // namespace winnow

#include "server/commands/flags.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <type_traits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "server/base/utf8.h"

namespace winnow {
namespace {

constexpr int kHelpColumn = 30;
constexpr size_t kHelpWidth = 100;

template <typename T>
struct Unwrapped {
  using Type = T;
};
template <typename T>
struct Unwrapped<std::optional<T>> {
  using Type = T;
};

template <typename T>
bool ParseNumber(const std::string& text, T* value) {
  if constexpr (std::is_same_v<T, double>) {
    return absl::SimpleAtod(text, value) && std::isfinite(*value);
  } else {
    return absl::SimpleAtoi(text, value);
  }
}

template <typename T>
std::string NumberText(T value) {
  return absl::StrCat(value);
}

std::string RangeText(const FlagSet::Range& range) {
  const FlagSet::Range open;
  if (range.min == open.min && range.max == open.max) return "";
  const auto text = [](double limit) {
    return limit == std::trunc(limit) && std::abs(limit) < 1e15
               ? absl::StrCat(static_cast<int64_t>(limit))
               : absl::StrCat(limit);
  };
  if (range.max == open.max) return absl::StrCat(" of at least ", text(range.min));
  if (range.min == open.min) return absl::StrCat(" of at most ", text(range.max));
  return absl::StrCat(" from ", text(range.min), " to ", text(range.max));
}

std::string DefaultText(const FlagSet::Target& target) {
  return std::visit(
      [](auto* value) -> std::string {
        using T = std::remove_pointer_t<decltype(value)>;
        if constexpr (std::is_same_v<T, std::string>) {
          return *value;
        } else if constexpr (std::is_same_v<T, int> || std::is_same_v<T, int64_t> ||
                             std::is_same_v<T, double>) {
          return NumberText(*value);
        } else {
          return "";  // off, or no default
        }
      },
      target);
}

/// Breaks `text` into lines that fit between the help column and the right margin.
std::string Indented(const std::string& text) {
  std::string out;
  size_t width = 0;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = text.find(' ', begin);
    if (end == std::string::npos) end = text.size();
    const size_t word = end - begin;
    if (width > 0 && kHelpColumn + width + 1 + word > kHelpWidth) {
      out += "\n" + std::string(kHelpColumn, ' ');
      width = 0;
    } else if (width > 0) {
      out += ' ';
      ++width;
    }
    out.append(text, begin, word);
    width += word;
    begin = end + 1;
  }
  return out;
}

std::string HelpLine(const std::string& name, const std::string& help) {
  std::string line = "  " + name;
  if (line.size() + 2 > kHelpColumn) {
    line += "\n" + std::string(kHelpColumn, ' ');
  } else {
    line.resize(kHelpColumn, ' ');
  }
  return line + Indented(help) + "\n";
}

std::string Trimmed(const std::string& text) {
  return std::string(absl::StripAsciiWhitespace(text));
}

std::string WithoutQuotes(const std::string& text) {
  if (text.size() >= 2 && (text.front() == '"' || text.front() == '\'') &&
      text.back() == text.front()) {
    return text.substr(1, text.size() - 2);
  }
  return text;
}

/// Control characters escaped, C1's in UTF-8 (C2 80 to C2 9F), too: messages quote what others
/// wrote.
std::string OneLine(absl::string_view message) {
  std::string line;
  for (size_t i = 0; i < message.size(); ++i) {
    const auto byte = static_cast<unsigned char>(message[i]);
    const auto next = static_cast<unsigned char>(i + 1 < message.size() ? message[i + 1] : 0);
    if (absl::ascii_iscntrl(byte) || (byte == 0xC2 && next >= 0x80 && next < 0xA0)) {
      absl::StrAppend(&line, "\\x", absl::Hex(byte, absl::kZeroPad2));
      if (byte == 0xC2) absl::StrAppend(&line, "\\x", absl::Hex(message[++i] & 0xFF));
    } else {
      line.push_back(message[i]);
    }
  }
  return line;
}

}  // namespace

FlagSet::FlagSet(std::string command, std::string summary)
    : command_(std::move(command)), summary_(std::move(summary)) {}

void FlagSet::Add(std::string name, Target target, std::string unit, std::string help) {
  Add(std::move(name), target, std::move(unit), std::move(help), Range{});
}

void FlagSet::Add(std::string name, Target target, std::string unit, std::string help,
                  Range range) {
  flags_.push_back({.name = std::move(name),
                    .target = target,
                    .unit = std::move(unit),
                    .help = std::move(help),
                    .range = range,
                    .choices = {},
                    .zero_word = {},
                    .default_text = DefaultText(target)});
}

void FlagSet::AddChoice(std::string name, std::string* target, std::vector<std::string> choices,
                        std::string help) {
  std::string unit = absl::StrJoin(choices, "|");
  Add(std::move(name), target, std::move(unit), std::move(help));
  flags_.back().choices = std::move(choices);
}

void FlagSet::AddNumberOr(std::string word, std::string name, int* target, std::string unit,
                          std::string help, Range range) {
  Add(std::move(name), target, absl::StrCat(word, "|", unit), std::move(help), range);
  if (*target == 0) flags_.back().default_text = word;
  flags_.back().zero_word = std::move(word);
}

void FlagSet::AddPositional(std::string name, std::string* target, std::string help) {
  positionals_.push_back({std::move(name), target, std::move(help)});
}

void FlagSet::AddConfig() {
  Add("config", &config_path_, "FILE",
      "Reads flags from a file first: lines of `name: value` or `name = value`, without the "
      "dashes. Flags on the command line win.");
}

FlagSet::Flag* FlagSet::Find(std::string_view name) {
  const auto found = std::find_if(flags_.begin(), flags_.end(),
                                  [&](const Flag& flag) { return flag.name == name; });
  return found == flags_.end() ? nullptr : &*found;
}

bool FlagSet::IsSet(std::string_view name) const {
  return std::any_of(flags_.begin(), flags_.end(),
                     [&](const Flag& flag) { return flag.name == name && flag.is_set; });
}

absl::Status FlagSet::Set(Flag& flag, const std::string& text) {
  const auto error = [&](const std::string& wants) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", flag.name, " takes ", wants, ", not \"", text, "\""));
  };
  if (!flag.choices.empty() &&
      std::find(flag.choices.begin(), flag.choices.end(), text) == flag.choices.end()) {
    return error(absl::StrJoin(flag.choices, " or "));
  }
  flag.is_set = true;
  return std::visit(
      [&](auto* target) -> absl::Status {
        using T = std::remove_pointer_t<decltype(target)>;
        if constexpr (std::is_same_v<T, std::string>) {
          *target = text;
        } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
          target->push_back(text);
        } else if constexpr (std::is_same_v<T, bool>) {
          if (text != "true" && text != "false") return error("true or false");
          *target = text == "true";
        } else {
          using Number = typename Unwrapped<T>::Type;
          Number value = 0;
          const bool is_word = !flag.zero_word.empty() && text == flag.zero_word;
          if (!is_word &&
              (!ParseNumber(text, &value) || static_cast<double>(value) < flag.range.min ||
               static_cast<double>(value) > flag.range.max)) {
            const char* kind = std::is_same_v<Number, double> ? "a number" : "a whole number";
            const std::string word = flag.zero_word.empty() ? "" : flag.zero_word + " or ";
            return error(word + kind + RangeText(flag.range));
          }
          *target = value;
        }
        return absl::OkStatus();
      },
      flag.target);
}

absl::Status FlagSet::ReadConfigFile(const std::string& path) {
  std::ifstream file(path);
  // A folder can be opened, but nothing of it be read.
  if (!file || (file.peek(), file.bad())) {
    return absl::InvalidArgumentError("--config: can't read " + path);
  }
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    const std::string where = absl::StrCat(path, ":", number, ": ");
    if (number == 1) line = std::string(WithoutByteOrderMark(line));
    line = Trimmed(line);
    if (line.empty() || line.front() == '#') continue;
    const size_t separator = line.find_first_of(":=");
    if (separator == std::string::npos) {
      return absl::InvalidArgumentError(where + "wants `name: value`, not \"" + line + "\"");
    }
    const std::string name = Trimmed(line.substr(0, separator));
    std::string value = Trimmed(line.substr(separator + 1));
    if (const size_t comment = value.find(" #");
        comment != std::string::npos && value.front() != '"' && value.front() != '\'') {
      value = Trimmed(value.substr(0, comment));
    }
    Flag* flag = name == "config" ? nullptr : Find(name);
    if (flag == nullptr) {
      return absl::InvalidArgumentError(where + "unknown name \"" + name + "\"");
    }
    if (absl::Status status = Set(*flag, WithoutQuotes(value)); !status.ok()) {
      return absl::InvalidArgumentError(where + std::string(status.message()));
    }
  }
  return absl::OkStatus();
}

absl::Status FlagSet::Parse(std::span<const std::string> arguments) {
  // First what is given, then the config file, then the values: the command line wins.
  std::vector<std::pair<Flag*, std::string>> given;
  std::vector<std::string> positionals;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument == "--help" || argument == "-h") {
      help_requested_ = true;
      return absl::OkStatus();
    }
    if (argument.rfind("--", 0) != 0) {
      positionals.push_back(argument);
      continue;
    }
    const size_t equals = argument.find('=');
    const std::string name = argument.substr(2, equals == std::string::npos ? equals : equals - 2);
    Flag* flag = Find(name);
    if (flag == nullptr) return absl::InvalidArgumentError("unknown flag --" + name);
    if (equals != std::string::npos) {
      given.emplace_back(flag, argument.substr(equals + 1));
    } else if (std::holds_alternative<bool*>(flag->target)) {
      given.emplace_back(flag, "true");
    } else if (i + 1 < arguments.size()) {
      given.emplace_back(flag, arguments[++i]);
    } else {
      return absl::InvalidArgumentError("--" + name + " needs a value");
    }
  }
  if (positionals.size() > positionals_.size()) {
    return absl::InvalidArgumentError("unexpected argument \"" + positionals[positionals_.size()] +
                                      "\"");
  }
  if (positionals.size() < positionals_.size()) {
    return absl::InvalidArgumentError(positionals_[positionals.size()].name + " is missing");
  }
  for (size_t i = 0; i < positionals.size(); ++i) *positionals_[i].target = positionals[i];

  for (const auto& [flag, value] : given) {
    if (flag->name == "config") config_path_ = value;
  }
  if (!config_path_.empty()) {
    if (absl::Status status = ReadConfigFile(config_path_); !status.ok()) return status;
    for (const auto& [flag, value] : given) {
      if (auto* list = std::get_if<std::vector<std::string>*>(&flag->target)) (*list)->clear();
    }
  }
  for (const auto& [flag, value] : given) {
    if (absl::Status status = Set(*flag, value); !status.ok()) return status;
  }
  return absl::OkStatus();
}

std::string FlagSet::Help() const {
  std::string help = summary_ + "\n\nUsage: " + command_;
  for (const Positional& positional : positionals_) help += " " + positional.name;
  help += " [flags]\n\n";
  for (const Positional& positional : positionals_) {
    help += HelpLine(positional.name, positional.help);
  }
  if (!positionals_.empty()) help += "\n";
  for (const Flag& flag : flags_) {
    std::string text = flag.help;
    if (!flag.default_text.empty()) text += " Default: " + flag.default_text + ".";
    if (std::holds_alternative<std::vector<std::string>*>(flag.target)) text += " Repeatable.";
    help += HelpLine("--" + flag.name + (flag.unit.empty() ? "" : " " + flag.unit), text);
  }
  return help + HelpLine("--help", "Shows this.");
}

std::optional<int> ParseOrExitCode(FlagSet& flags, std::span<const std::string> arguments) {
  if (absl::Status status = flags.Parse(arguments); !status.ok()) {
    std::fprintf(stderr, "%s: %s (see %s --help)\n", flags.command().c_str(),
                 OneLine(status.message()).c_str(), flags.command().c_str());
    return 2;
  }
  if (flags.help_requested()) {
    std::fputs(flags.Help().c_str(), stdout);
    return 0;
  }
  return std::nullopt;
}

int Fail(const FlagSet& flags, const absl::Status& status) {
  std::fprintf(stderr, "%s: %s\n", flags.command().c_str(), OneLine(status.message()).c_str());
  return 1;
}

}  // namespace winnow

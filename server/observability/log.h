#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

namespace winnow {

enum class LogLevel { kDebug, kInfo, kWarning, kError };
enum class LogFormat { kLogfmt, kJson };

/// One named value of a log line.
struct LogField {
  /// monostate: the line goes without the field.
  using Value = std::variant<std::monostate, std::string_view, int64_t, double, bool>;

  LogField(std::string_view key, std::string_view value) : key(key), value(value) {}
  LogField(std::string_view key, const std::string& value)
      : key(key), value(std::string_view(value)) {}
  LogField(std::string_view key, const char* value) : key(key), value(std::string_view(value)) {}
  LogField(std::string_view key, const std::optional<std::string>& value)
      : key(key), value(value ? Value(std::string_view(*value)) : Value()) {}
  LogField(std::string_view key, bool value) : key(key), value(value) {}
  LogField(std::string_view key, std::integral auto value)
      : key(key), value(static_cast<int64_t>(value)) {}
  LogField(std::string_view key, double value) : key(key), value(value) {}

  std::string_view key;
  Value value;
};

/// Sets what is logged and how, for the whole process. Default: kInfo, kLogfmt.
void ConfigureLog(LogLevel level, LogFormat format);

/// Writes one line to stderr (LogThread): time, level, event and fields. Safe from any thread;
/// lines never mix. Never pass text of prompts or of generated output.
void Log(LogLevel level, std::string_view event, std::initializer_list<LogField> fields = {});

/// The line that Log would write now; empty if it is below the level.
std::string LogLine(LogLevel level, std::string_view event, std::initializer_list<LogField> fields);

/// "debug", "info", "warning", "error"; "logfmt", "json". REQUIRES: one of these.
LogLevel ParseLogLevel(std::string_view name);
LogFormat ParseLogFormat(std::string_view name);

/// The line that Log writes, without the time, for tests: {"level":..} or level=...
std::string FormatLogLine(LogFormat format, std::string_view time, LogLevel level,
                          std::string_view event, std::initializer_list<LogField> fields);

}  // namespace winnow

#include "server/observability/log.h"

#include <algorithm>
#include <atomic>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/observability/log_thread.h"

namespace winnow {
namespace {

std::atomic<LogLevel> g_level{LogLevel::kInfo};
std::atomic<LogFormat> g_format{LogFormat::kLogfmt};

const char* LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "";
}

/// In ASCII alone, so that nothing in it can control a terminal.
std::string Quoted(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', /*ensure_ascii=*/true,
                                   nlohmann::json::error_handler_t::replace);
}

/// logfmt leaves plain words without quotes.
std::string LogfmtWord(std::string_view text) {
  const bool plain =
      !text.empty() && text.find_first_of(" =\"\\") == std::string_view::npos &&
      std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7F; });
  return plain ? std::string(text) : Quoted(text);
}

std::string ValueText(const LogField::Value& value, LogFormat format) {
  if (const auto* text = std::get_if<std::string_view>(&value)) {
    return format == LogFormat::kJson ? Quoted(*text) : LogfmtWord(*text);
  }
  if (const auto* number = std::get_if<int64_t>(&value)) return absl::StrCat(*number);
  if (const auto* number = std::get_if<double>(&value)) return absl::StrCat(*number);
  return std::get<bool>(value) ? "true" : "false";
}

}  // namespace

void ConfigureLog(LogLevel level, LogFormat format) {
  g_level = level;
  g_format = format;
}

LogLevel ParseLogLevel(std::string_view name) {
  if (name == "debug") return LogLevel::kDebug;
  if (name == "warning") return LogLevel::kWarning;
  if (name == "error") return LogLevel::kError;
  return LogLevel::kInfo;
}

LogFormat ParseLogFormat(std::string_view name) {
  return name == "json" ? LogFormat::kJson : LogFormat::kLogfmt;
}

std::string FormatLogLine(LogFormat format, std::string_view time, LogLevel level,
                          std::string_view event, std::initializer_list<LogField> fields) {
  std::string line;
  const auto append = [&](const LogField& field) {
    if (std::holds_alternative<std::monostate>(field.value)) return;
    const std::string value = ValueText(field.value, format);
    if (format == LogFormat::kJson) {
      line += (line.empty() ? "{" : ",") + Quoted(field.key) + ":" + value;
    } else {
      line += (line.empty() ? "" : " ") + std::string(field.key) + "=" + value;
    }
  };
  append({"time", time});
  append({"level", LevelName(level)});
  append({"event", event});
  for (const LogField& field : fields) append(field);
  return line + (format == LogFormat::kJson ? "}\n" : "\n");
}

std::string LogLine(LogLevel level, std::string_view event,
                    std::initializer_list<LogField> fields) {
  if (level < g_level.load(std::memory_order_relaxed)) return "";
  const std::string time =
      absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
  return FormatLogLine(g_format, time, level, event, fields);
}

void Log(LogLevel level, std::string_view event, std::initializer_list<LogField> fields) {
  std::string line = LogLine(level, event, fields);
  if (!line.empty()) WriteLogLine(std::move(line));
}

}  // namespace winnow

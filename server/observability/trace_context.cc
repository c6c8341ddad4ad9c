#include "server/observability/trace_context.h"

namespace winnow {
namespace {

// version "-" trace-id "-" parent-id "-" flags
constexpr size_t kVersionDigits = 2, kTraceDigits = 32, kSpanDigits = 16, kFlagDigits = 2;
constexpr size_t kTraceBegin = kVersionDigits + 1;
constexpr size_t kSpanBegin = kTraceBegin + kTraceDigits + 1;
constexpr size_t kFlagsBegin = kSpanBegin + kSpanDigits + 1;
constexpr size_t kLength = kFlagsBegin + kFlagDigits;

/// The standard allows lower case only.
bool IsHex(std::string_view text) {
  return text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

bool IsId(std::string_view text) {
  return IsHex(text) && text.find_first_not_of('0') != std::string_view::npos;
}

}  // namespace

std::optional<TraceContext> ParseTraceparent(std::string_view header) {
  if (header.size() < kLength) return std::nullopt;
  const std::string_view version = header.substr(0, kVersionDigits);
  const std::string_view trace_id = header.substr(kTraceBegin, kTraceDigits);
  const std::string_view span_id = header.substr(kSpanBegin, kSpanDigits);
  if (!IsHex(version) || version == "ff" || !IsId(trace_id) || !IsId(span_id) ||
      !IsHex(header.substr(kFlagsBegin, kFlagDigits))) {
    return std::nullopt;
  }
  for (const size_t dash : {kTraceBegin - 1, kSpanBegin - 1, kFlagsBegin - 1}) {
    if (header[dash] != '-') return std::nullopt;
  }
  // Later versions may only add fields, after another dash.
  if (header.size() > kLength && (version == "00" || header[kLength] != '-')) return std::nullopt;
  return TraceContext{std::string(trace_id), std::string(span_id)};
}

}  // namespace winnow

#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace winnow {

/// Where a call belongs in its caller's trace (https://www.w3.org/TR/trace-context/).
struct TraceContext {
  std::string trace_id;  ///< 32 hexadecimal digits
  std::string span_id;   ///< the caller's span, 16 hexadecimal digits
};

/// Reads a `traceparent` header as the standard has it; nothing when it is not exactly that.
std::optional<TraceContext> ParseTraceparent(std::string_view header);

}  // namespace winnow

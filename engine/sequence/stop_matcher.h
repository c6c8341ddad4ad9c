#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace winnow {

/// Watches streamed text for stop strings. Text that may be the beginning of a stop string is held
/// back until it is certain, so that no part of a matched one is ever emitted. What is emitted does
/// not depend on how the text was cut into pieces.
class StopMatcher {
 public:
  /// REQUIRES: `stops` outlives this object. Empty strings in it never match.
  explicit StopMatcher(const std::vector<std::string>& stops) : stops_(stops) {}

  struct Match {
    std::string text;  ///< what may be emitted now
    /// Set when a stop string is complete; `text` is then all that comes before it. Of several, the
    /// one that ends first; of those that end together, the longest.
    std::optional<std::string> stop;
  };

  /// Adds text. REQUIRES: no stop string has matched yet.
  Match Append(std::string_view text);

  /// Ends the text: returns what was held back.
  std::string Flush();

 private:
  const std::vector<std::string>& stops_;
  std::string held_;  ///< the longest end of the text that begins a stop string
};

}  // namespace winnow

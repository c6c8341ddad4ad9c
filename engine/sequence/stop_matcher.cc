#include "engine/sequence/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace winnow {

StopMatcher::Match StopMatcher::Append(std::string_view text) {
  const size_t seen = held_.size();  // no stop string ends within what was held back
  held_ += text;
  const std::string_view all = held_;

  for (size_t end = seen + 1; end <= all.size(); ++end) {
    const std::string* longest = nullptr;
    for (const std::string& stop : stops_) {
      if (!stop.empty() && all.substr(0, end).ends_with(stop) &&
          (longest == nullptr || stop.size() > longest->size())) {
        longest = &stop;
      }
    }
    if (longest != nullptr) {
      Match match{std::string(all.substr(0, end - longest->size())), *longest};
      held_.clear();
      return match;
    }
  }

  size_t keep = 0;
  for (const std::string& stop : stops_) {
    if (stop.empty()) continue;
    size_t length = std::min(stop.size() - 1, all.size());
    while (length > keep && !all.ends_with(std::string_view(stop).substr(0, length))) --length;
    keep = std::max(keep, length);
  }
  Match match{std::string(all.substr(0, all.size() - keep)), std::nullopt};
  held_.erase(0, held_.size() - keep);
  return match;
}

std::string StopMatcher::Flush() { return std::exchange(held_, {}); }

}  // namespace winnow

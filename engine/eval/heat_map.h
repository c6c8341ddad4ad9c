#pragma once

#include <span>
#include <string>

#include "engine/eval/recall.h"

namespace winnow {

/// One policy's panel of a heat map.
struct HeatMapPanel {
  std::string title;
  const RecallResult* result = nullptr;
};

/// Recall by layer (to the right) and KV head (downward) as an SVG image that needs no other file:
/// a panel for each policy, every cell with its colour, its percentage and the exact value as a
/// tooltip, one colour scale for all, and a legend. `caption` says in a line what was measured.
/// REQUIRES: at least one panel; all are of the same model.
std::string RecallHeatMapSvg(const std::string& caption, std::span<const HeatMapPanel> panels);

/// An HTML page that holds nothing but the image.
std::string HtmlPage(const std::string& title, const std::string& svg);

}  // namespace winnow

#include "engine/eval/heat_map.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace winnow {
namespace {

constexpr int kCellWidth = 26;
constexpr int kCellHeight = 20;
constexpr int kMargin = 20;
constexpr int kLabelWidth = 60;  // left of a panel: the heads' numbers
constexpr int kHeadHeight = 96;  // title, caption and legend
constexpr int kPanelHead = 26;
constexpr int kPanelFoot = 34;  // the layers' numbers and the axis' name
constexpr int kLegendWidth = 260;
constexpr int kMinWidth = 720;  // the caption needs so much

struct Colour {
  double r, g, b;
};

// From the worst recall to the best: dark where much is lost. Light in even steps, so that it also
// reads in grey.
constexpr std::array<Colour, 4> kScale = {
    Colour{91, 16, 62}, {201, 74, 83}, {245, 176, 112}, {252, 250, 236}};

Colour At(double share) {
  const double place = std::clamp(share, 0.0, 1.0) * (kScale.size() - 1);
  const auto below = std::min(static_cast<size_t>(place), kScale.size() - 2);
  const double part = place - static_cast<double>(below);
  const Colour& a = kScale[below];
  const Colour& b = kScale[below + 1];
  return {a.r + part * (b.r - a.r), a.g + part * (b.g - a.g), a.b + part * (b.b - a.b)};
}

std::string Hex(const Colour& colour) {
  return absl::StrFormat("#%02x%02x%02x", static_cast<int>(std::lround(colour.r)),
                         static_cast<int>(std::lround(colour.g)),
                         static_cast<int>(std::lround(colour.b)));
}

// Black or white, whichever can be read on the colour.
const char* InkOn(const Colour& colour) {
  return 0.299 * colour.r + 0.587 * colour.g + 0.114 * colour.b > 140 ? "#222" : "#fff";
}

std::string Escaped(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

void AddText(std::string& svg, int x, int y, const char* attributes, std::string_view text) {
  absl::StrAppendFormat(&svg, "<text x=\"%d\" y=\"%d\" %s>%s</text>\n", x, y, attributes,
                        Escaped(text));
}

void AddLegend(std::string& svg, int x, int y, double lowest) {
  constexpr int kSteps = 52;
  constexpr int kHeight = 12;
  for (int i = 0; i < kSteps; ++i) {
    absl::StrAppendFormat(&svg,
                          "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"%s\"/>\n",
                          x + i * kLegendWidth / kSteps, y, kLegendWidth / kSteps, kHeight,
                          Hex(At((i + 0.5) / kSteps)));
  }
  absl::StrAppendFormat(&svg,
                        "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"none\" "
                        "stroke=\"#888\"/>\n",
                        x, y, kLegendWidth, kHeight);
  for (const double share : {0.0, 0.5, 1.0}) {
    AddText(svg, x + static_cast<int>(share * kLegendWidth), y + kHeight + 14,
            "text-anchor=\"middle\"",
            absl::StrFormat("%.0f %%", 100 * (lowest + share * (1 - lowest))));
  }
  AddText(svg, x + kLegendWidth + 24, y + 11, "", "recall: share of the true softmax mass held");
}

void AddPanel(std::string& svg, int x, int y, const HeatMapPanel& panel, double lowest) {
  const RecallResult& result = *panel.result;
  AddText(svg, x - kLabelWidth, y + 14, "font-weight=\"bold\"",
          absl::StrFormat("%s: mean %.1f %%", panel.title, 100 * MeanRecall(result.recall)));
  y += kPanelHead;
  for (int g = 0; g < result.kv_heads; ++g) {
    AddText(svg, x - 8, y + g * kCellHeight + 14, "text-anchor=\"end\"",
            g == 0 ? absl::StrCat("head ", g) : absl::StrCat(g));
  }
  for (int l = 0; l < result.layers(); ++l) {
    for (int g = 0; g < result.kv_heads; ++g) {
      const double recall = result.layer(l)[static_cast<size_t>(g)];
      const Colour colour = At((recall - lowest) / (1 - lowest));
      const int left = x + l * kCellWidth;
      const int top = y + g * kCellHeight;
      absl::StrAppendFormat(&svg,
                            "<g><title>layer %d, KV head %d: %.4f</title><rect x=\"%d\" y=\"%d\" "
                            "width=\"%d\" height=\"%d\" fill=\"%s\"/>",
                            l, g, recall, left, top, kCellWidth - 1, kCellHeight - 1, Hex(colour));
      absl::StrAppendFormat(&svg,
                            "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\" font-size=\"10\" "
                            "fill=\"%s\">%.0f</text></g>\n",
                            left + kCellWidth / 2, top + 13, InkOn(colour), 100 * recall);
    }
  }
  y += result.kv_heads * kCellHeight + 13;
  for (int l = 0; l < result.layers(); ++l) {
    AddText(svg, x + l * kCellWidth + kCellWidth / 2, y, "text-anchor=\"middle\" font-size=\"10\"",
            l == 0 ? "layer 0" : absl::StrCat(l));
  }
}

}  // namespace

std::string RecallHeatMapSvg(const std::string& caption, std::span<const HeatMapPanel> panels) {
  double lowest = 1;
  for (const HeatMapPanel& panel : panels) {
    lowest = std::min(lowest, *std::ranges::min_element(panel.result->recall));
  }
  // Whole tenths below the worst, and never an empty scale.
  lowest = std::clamp(std::floor(lowest * 10) / 10, 0.0, 0.9);
  const RecallResult& first = *panels[0].result;
  const int panel_height = kPanelHead + first.kv_heads * kCellHeight + kPanelFoot;
  const int width = std::max(kMinWidth, 2 * kMargin + kLabelWidth + first.layers() * kCellWidth);
  const int height =
      kMargin + kHeadHeight + static_cast<int>(panels.size()) * panel_height + kMargin;

  std::string svg = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" "
      "font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n"
      "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
      width, height, width, height);
  AddText(svg, kMargin, kMargin + 14, "font-size=\"16\" font-weight=\"bold\"",
          "Recall by layer and KV head, in percent");
  AddText(svg, kMargin, kMargin + 34, "fill=\"#555\"", caption);
  AddLegend(svg, kMargin, kMargin + 50, lowest);
  for (size_t p = 0; p < panels.size(); ++p) {
    AddPanel(svg, kMargin + kLabelWidth, kMargin + kHeadHeight + static_cast<int>(p) * panel_height,
             panels[p], lowest);
  }
  return svg + "</svg>\n";
}

std::string HtmlPage(const std::string& title, const std::string& svg) {
  return absl::StrCat("<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>",
                      Escaped(title), "</title></head>\n<body>\n", svg, "</body>\n</html>\n");
}

}  // namespace winnow

#include "engine/text/sampling_defaults.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/text/json_value.h"

namespace winnow {
namespace {

/// A number that must be as `valid` has it, also as a float, which `range` describes; unset where
/// there is none.
template <typename Valid>
std::optional<double> ReadNumber(const JsonValue& json, Valid valid, const std::string& range) {
  if (json.IsNull()) return std::nullopt;
  const double number = json.Number();
  if (!valid(number)) json.Fault(absl::StrCat("is ", number, ", which is not ", range));
  return number;
}

}  // namespace

absl::StatusOr<GenerationConfig> ReadGenerationConfig(std::string_view text) {
  constexpr const char* kName = "generation_config.json";
  const absl::StatusOr<nlohmann::json> parsed = ParseJson(text, kName);
  if (!parsed.ok()) return parsed.status();
  absl::Status fault;
  const JsonValue json(*parsed, absl::StrCat(kName, ": "), fault);
  GenerationConfig config;
  SamplingDefaults& sampling = config.sampling;
  sampling.temperature = ReadNumber(
      json["temperature"], [](double x) { return x >= 0 && x <= kMaxTemperature; },
      absl::StrCat("from 0 to ", kMaxTemperature));
  if (!json["do_sample"].Bool(true)) sampling.temperature = 0;
  sampling.top_p = ReadNumber(
      json["top_p"], [](double x) { return static_cast<float>(x) > 0 && x <= 1; },
      "above 0 and at most 1");
  sampling.min_p = ReadNumber(
      json["min_p"], [](double x) { return x >= 0 && static_cast<float>(x) < 1; },
      "at least 0 and below 1");
  sampling.repetition_penalty = ReadNumber(
      json["repetition_penalty"],
      [](double x) { return x >= kMinRepetitionPenalty && x <= kMaxRepetitionPenalty; },
      absl::StrCat("from ", kMinRepetitionPenalty, " to ", kMaxRepetitionPenalty));
  if (const JsonValue top_k = json["top_k"]; !top_k.IsNull()) {
    const int64_t value = top_k.Int();
    if (value < -1 || value > INT32_MAX) {
      top_k.Fault(absl::StrCat("is ", value, ", which is not from 0 to ", INT32_MAX));
    }
    sampling.top_k = static_cast<int32_t>(std::max<int64_t>(value, 0));  // -1: all, too
  }
  const JsonValue end = json["eos_token_id"];
  for (size_t i = 0; end.IsArray() && i < end.size(); ++i) {
    config.end_tokens.push_back(end.At(i).Int());
  }
  if (!end.IsArray() && !end.IsNull()) config.end_tokens.push_back(end.Int());
  if (!fault.ok()) return fault;
  return config;
}

}  // namespace winnow

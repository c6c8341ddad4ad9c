#include "engine/text/sampling_defaults.h"

#include "absl/strings/str_cat.h"
#include "engine/text/json_value.h"

namespace winnow {
namespace {

/// A number within bounds, unset where there is none.
std::optional<float> ReadNumber(const JsonValue& json, double low, bool with_low, double high) {
  if (json.IsNull()) return std::nullopt;
  const double number = json.Number();
  if (number < low || (number == low && !with_low) || !(number <= high)) {
    json.Fault(absl::StrCat("is ", number, ", which is not ", with_low ? "from " : "above ", low,
                            " to ", high));
  }
  return static_cast<float>(number);
}

}  // namespace

absl::StatusOr<GenerationConfig> ReadGenerationConfig(std::string_view text) {
  constexpr const char* kName = "generation_config.json";
  constexpr double kMost = 1e6;
  const absl::StatusOr<nlohmann::json> parsed = ParseJson(text, kName);
  if (!parsed.ok()) return parsed.status();
  absl::Status fault;
  const JsonValue json(*parsed, absl::StrCat(kName, ": "), fault);
  GenerationConfig config;
  config.sampling.temperature = ReadNumber(json["temperature"], 0, /*with_low=*/true, kMost);
  if (!json["do_sample"].Bool(true)) config.sampling.temperature = 0;
  config.sampling.top_p = ReadNumber(json["top_p"], 0, /*with_low=*/false, 1);
  config.sampling.repetition_penalty =
      ReadNumber(json["repetition_penalty"], 0, /*with_low=*/false, kMost);
  if (const JsonValue top_k = json["top_k"]; !top_k.IsNull()) {
    const int64_t value = top_k.Int();
    if (value < 0 || value > INT32_MAX) top_k.Fault(absl::StrCat("is ", value));
    config.sampling.top_k = static_cast<int32_t>(value);
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

#include "engine/text/tokenizer_config.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace winnow {
namespace {

/// A token's spelling, as a string or in an object.
std::string ReadSpelling(const JsonValue& json) {
  return json.IsObject() ? json["content"].String() : json.String("");
}

void ReadTemplates(const JsonValue& json, TokenizerConfig& config) {
  if (!json.IsNull() && !json.IsArray()) config.chat_template = json.String();
  for (size_t i = 0; json.IsArray() && i < json.size(); ++i) {
    const JsonValue entry = json.At(i);
    const std::string name = entry["name"].String();
    if (name == "default") config.chat_template = entry["template"].String();
    if (name == "tool_use") config.tool_use_template = entry["template"].String();
  }
}

}  // namespace

absl::StatusOr<TokenizerConfig> ReadTokenizerConfig(std::string_view text) {
  constexpr const char* kName = "tokenizer_config.json";
  const absl::StatusOr<nlohmann::json> parsed = ParseJson(text, kName);
  if (!parsed.ok()) return parsed.status();
  absl::Status fault;
  const JsonValue json(*parsed, absl::StrCat(kName, ": "), fault);
  TokenizerConfig config;
  config.bos = ReadSpelling(json["bos_token"]);
  config.eos = ReadSpelling(json["eos_token"]);
  config.unknown = ReadSpelling(json["unk_token"]);
  if (const JsonValue adds = json["add_bos_token"]; !adds.IsNull()) config.adds_bos = adds.Bool();
  ReadTemplates(json["chat_template"], config);
  const JsonValue added = json["added_tokens_decoder"];
  if (!added.IsNull() && !added.IsObject()) added.Fault("is no object");
  if (added.IsObject()) {
    for (const auto& [id, value] : added.json().items()) {
      const JsonValue entry(value, absl::StrCat(added.name(), "['", id, "']"), fault);
      config.added.push_back(ReadAddedToken(entry));
      if (!absl::SimpleAtoi(id, &config.added.back().id)) entry.Fault("is at no number");
    }
  }
  if (!fault.ok()) return fault;
  return config;
}

}  // namespace winnow

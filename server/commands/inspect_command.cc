#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "engine/model/kv_layout.h"
#include "server/commands/commands.h"
#include "server/commands/flags.h"
#include "server/commands/inspect_report.h"

namespace winnow {
namespace {

using Json = nlohmann::ordered_json;

const char* PairingName(RopePairing pairing) {
  return pairing == RopePairing::kAdjacent ? "adjacent" : "halves";
}

Json ToJson(const NamedToken& token) { return {{"id", token.id}, {"text", token.text}}; }

Json ToJson(const std::optional<NamedToken>& token) {
  return token ? ToJson(*token) : Json(nullptr);
}

Json ToJson(const RopeConfig& rope) {
  return {{"dimensions", rope.dim},
          {"pairing", PairingName(rope.pairing)},
          {"base", rope.base},
          {"scaling", rope.scaling}};
}

/// The layers with a window, which have one of the same size.
std::vector<int> WindowedLayers(const ModelConfig& config) {
  std::vector<int> layers;
  for (int i = 0; i < config.layers; ++i) {
    if (config.layer[i].sliding_window > 0) layers.push_back(i);
  }
  return layers;
}

Json WindowsJson(const ModelConfig& config) {
  const std::vector<int> layers = WindowedLayers(config);
  if (layers.empty()) return nullptr;
  const LayerConfig& layer = config.layer[layers[0]];
  return {{"tokens", layer.sliding_window},
          {"layers", layers},
          {"rope", ToJson(config.ropes[layer.rope])}};
}

/// What the model's authors recommend, by name.
Json SamplingJson(const SamplingDefaults& sampling) {
  Json json = Json::object();
  const auto add = [&json](const char* name, const auto& value) {
    if (value) json[name] = *value;
  };
  add("temperature", sampling.temperature);
  add("top_k", sampling.top_k);
  add("top_p", sampling.top_p);
  add("min_p", sampling.min_p);
  add("repetition_penalty", sampling.repetition_penalty);
  return json;
}

Json ToJson(const InspectReport& report) {
  const ModelConfig& config = report.config;
  Json types = Json::array();
  for (const TypeTotal& total : report.types) {
    types.push_back({{"type", DataTypeName(total.type)},
                     {"tensors", total.tensors},
                     {"parameters", total.parameters},
                     {"bytes", total.bytes}});
  }
  Json end_of_generation = Json::array();
  for (const NamedToken& token : report.end_of_generation) {
    end_of_generation.push_back(ToJson(token));
  }
  return {{"path", report.path},
          {"file_bytes", report.file_bytes},
          {"name", config.name},
          {"architecture", config.architecture},
          {"parameters", report.parameters},
          {"tensors", report.tensors},
          {"tensor_types", std::move(types)},
          {"sizes",
           {{"layers", config.layers},
            {"hidden", config.hidden},
            {"ffn", config.ffn},
            {"heads", config.heads},
            {"kv_heads", config.kv_heads},
            {"head_dim", config.head_dim},
            {"trained_context_tokens", config.max_context},
            {"tied_embeddings", config.tied_embeddings},
            {"qkv_bias", config.qkv_bias}}},
          {"rope", ToJson(config.ropes[0])},
          {"windows", WindowsJson(config)},
          {"tokenizer",
           {{"model", report.tokenizer_model},
            {"pretokenizer", report.pretokenizer},
            {"vocab_size", report.vocab_size},
            {"control_tokens", report.control_tokens},
            {"adds_bos", report.adds_bos},
            {"bos", ToJson(report.bos)},
            {"eos", ToJson(report.eos)},
            {"unknown", ToJson(report.unknown)},
            {"end_of_generation", std::move(end_of_generation)}}},
          {"chat", {{"state", report.chat}, {"refuses", report.chat_refusals}}},
          {"sampling", SamplingJson(report.sampling)},
          {"memory",
           {{"context_tokens", report.context_tokens},
            {"weight_bytes", report.weight_bytes},
            {"embedding_bytes", report.embedding_bytes},
            {"kv_bytes_per_token", KvBytesPerToken(config)},
            {"kv_bytes", report.kv_bytes()},
            {"total_bytes", report.total_bytes()}}}};
}

std::string Megabytes(int64_t bytes) {
  return absl::StrFormat("%.1f MB", static_cast<double>(bytes) / 1e6);
}

std::string Millions(int64_t count) {
  return absl::StrFormat("%.2f M", static_cast<double>(count) / 1e6);
}

/// Text of the file, made harmless for a terminal.
std::string Shown(const std::string& text) {
  return absl::StrReplaceAll(absl::Utf8SafeCHexEscape(text), {{"\\'", "'"}});
}

std::string Shown(const std::optional<NamedToken>& token) {
  return token ? absl::StrCat(token->id, " ", Shown(token->text)) : "none";
}

std::string Shown(const RopeConfig& rope) {
  return absl::StrFormat("%d dimensions in pairs (%s), base %g, scaling %s", rope.dim,
                         PairingName(rope.pairing), rope.base, rope.scaling);
}

std::string Shown(const SamplingDefaults& sampling) {
  const Json json = SamplingJson(sampling);
  std::string text;
  for (const auto& [name, value] : json.items()) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", name, " ", value.get<double>());
  }
  return text.empty() ? "as requests say" : text;
}

void PrintTable(const InspectReport& report) {
  const ModelConfig& config = report.config;
  const auto print = [](const char* name, const std::string& value) {
    std::printf("%-14s %s\n", name, value.c_str());
  };
  print("model", absl::StrCat(Shown(config.name), ", architecture ", config.architecture));
  print("file", absl::StrCat(report.path, ", ", Megabytes(report.file_bytes)));
  print("parameters",
        absl::StrCat(Millions(report.parameters), " in ", report.tensors, " tensors"));
  for (const TypeTotal& total : report.types) {
    print("", absl::StrFormat("%-5s %4d tensors %10s parameters %11s", DataTypeName(total.type),
                              total.tensors, Millions(total.parameters), Megabytes(total.bytes)));
  }
  print("layers", absl::StrCat(config.layers, ", width ", config.hidden, ", feed-forward width ",
                               config.ffn));
  print("heads", absl::StrCat(config.heads, " query, ", config.kv_heads, " KV, of ",
                              config.head_dim, " dimensions"));
  print("output", config.tied_embeddings ? "the embedding table" : "a matrix of its own");
  print("context", absl::StrCat(config.max_context, " tokens as trained"));
  print("RoPE", Shown(config.ropes[0]));
  if (const std::vector<int> layers = WindowedLayers(config); !layers.empty()) {
    const LayerConfig& layer = config.layer[layers[0]];
    print("windows", absl::StrCat("of ", layer.sliding_window, " tokens in ", layers.size(), " of ",
                                  config.layers, " layers"));
    if (layer.rope > 0) print("  RoPE", Shown(config.ropes[layer.rope]));
  }
  print("tokenizer",
        absl::StrCat(Shown(report.tokenizer_model), " (", Shown(report.pretokenizer), "), ",
                     report.vocab_size, " tokens, ", report.control_tokens, " of them control"));
  print("  begin", absl::StrCat(Shown(report.bos),
                                report.adds_bos ? ", put before text" : ", not put before text"));
  print("  end", Shown(report.eos));
  print("  unknown", Shown(report.unknown));
  for (const NamedToken& token : report.end_of_generation) {
    print("  stops at", absl::StrCat(token.id, " ", Shown(token.text)));
  }
  print("chat template", Shown(report.chat));
  if (!report.chat_refusals.empty()) print("  refuses", Shown(report.chat_refusals));
  print("sampling", Shown(report.sampling));
  print("memory", absl::StrCat(Megabytes(report.total_bytes()), " at a context of ",
                               report.context_tokens, " tokens"));
  print("  weights", absl::StrCat(Megabytes(report.weight_bytes), " as loaded"));
  print("  embeddings", absl::StrCat(Megabytes(report.embedding_bytes), " read in the file"));
  print("  KV", absl::StrCat(Megabytes(report.kv_bytes()), ", ", KvBytesPerToken(config),
                             " bytes per token"));
}

}  // namespace

int RunInspect(std::span<const std::string> arguments) {
  std::string path;
  int context = 0;
  bool json = false;
  FlagSet flags("winnow inspect",
                "Tells what is in a model file, and the memory that serving it takes on a CPU.");
  flags.AddPositional("MODEL", &path, "The GGUF file or Hugging Face folder.");
  flags.Add("context", &context, "TOKENS",
            "Context to tell the memory for. 0 is what the model was trained for.", {0, 1 << 24});
  flags.Add("json", &json, "", "Print one JSON object.");
  if (std::optional<int> exit_code = ParseOrExitCode(flags, arguments)) return *exit_code;
  const absl::StatusOr<InspectReport> report = Inspect(path, context);
  if (!report.ok()) return Fail(flags, report.status());
  if (json) {
    std::puts(ToJson(*report).dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
  } else {
    PrintTable(*report);
  }
  return 0;
}

}  // namespace winnow

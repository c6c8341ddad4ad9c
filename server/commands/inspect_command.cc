#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "engine/model/gguf_rope.h"
#include "engine/model/model_spec.h"
#include "engine/text/vocabulary.h"
#include "kernels/cpu/cpu_backend.h"
#include "server/commands/commands.h"
#include "server/commands/flags.h"
#include "server/commands/model_file.h"

namespace winnow {
namespace {

using Json = nlohmann::ordered_json;

/// What a file's tensors of one type amount to.
struct TypeTotal {
  DataType type = DataType::kF32;
  int tensors = 0;
  int64_t parameters = 0;
  int64_t bytes = 0;
};

/// A token that the file names for a purpose.
struct NamedToken {
  int32_t id = -1;
  std::string text;
};

/// Everything that the command prints.
struct Report {
  std::string path;
  int64_t file_bytes = 0;
  ModelConfig config;
  int64_t parameters = 0;
  int tensors = 0;
  std::vector<TypeTotal> types;  ///< most bytes first

  std::string tokenizer_model;
  std::string pretokenizer;
  int vocab_size = 0;
  int control_tokens = 0;
  bool adds_bos = false;
  std::optional<NamedToken> bos, eos, unknown;
  std::vector<NamedToken> end_of_generation;
  std::string chat;           ///< "renders", or why there is no chat
  std::string chat_refusals;  ///< what of an ordinary conversation the template refuses, or empty

  std::optional<double> rope_base;  ///< none where the folder's config.json tells
  std::string rope_scaling;

  int context_tokens = 0;
  int64_t weight_bytes = 0;     ///< of weights as the CPU backend keeps them
  int64_t embedding_bytes = 0;  ///< of the embedding table, which is read in the mapped file
  int64_t kv_bytes() const { return context_tokens * config.kv_bytes_per_token(); }
  int64_t total_bytes() const { return weight_bytes + embedding_bytes + kv_bytes(); }
};

const char* PairingName(RopePairing pairing) {
  return pairing == RopePairing::kAdjacent ? "adjacent" : "halves";
}

void CountTensors(const Checkpoint& checkpoint, Report& report) {
  std::map<DataType, TypeTotal> totals;
  for (const WeightInfo& tensor : checkpoint.tensors()) {
    int64_t elements = 1;
    for (const int64_t size : tensor.shape) elements *= size;
    TypeTotal& total = totals[tensor.type];
    total.type = tensor.type;
    ++total.tensors;
    total.parameters += elements;
    total.bytes += tensor.bytes;
    report.parameters += elements;
  }
  report.tensors = static_cast<int>(checkpoint.tensors().size());
  for (const auto& [type, total] : totals) report.types.push_back(total);
  std::ranges::sort(report.types, std::ranges::greater(), &TypeTotal::bytes);
}

/// The memory of each tensor that the forward pass reads: matrices repacked, vectors as fp32, the
/// embedding table where it is.
void CountMemory(const Checkpoint& checkpoint, Report& report) {
  const auto matrix_bytes = [](const WeightInfo& tensor) {
    const int64_t rows = tensor.shape[tensor.shape.size() - 2];
    const int64_t matrices = tensor.shape.size() == 3 ? tensor.shape[0] : 1;  // of experts
    return matrices * CpuMatrixBytes(tensor.type, rows, tensor.shape.back());
  };
  const ModelSpec spec = ModelSpec::Of(report.config);
  for (const TensorSpec& expected : spec.tensors) {
    const WeightInfo& tensor = *checkpoint.FindTensor(expected.name);
    if (tensor.shape.size() == 1) {
      report.weight_bytes += tensor.shape[0] * static_cast<int64_t>(sizeof(float));
    } else if (expected.name != spec.embedding) {
      report.weight_bytes += matrix_bytes(tensor);
    } else {
      report.embedding_bytes = tensor.bytes;
      if (report.config.tied_embeddings) report.weight_bytes += matrix_bytes(tensor);
    }
  }
}

void DescribeTokenizer(const ModelFile& model, Report& report) {
  const Vocabulary& vocabulary = model.text.vocabulary;
  const auto named = [&](int32_t id) -> std::optional<NamedToken> {
    if (id < 0) return std::nullopt;
    return NamedToken{id, vocabulary.tokens[id]};
  };
  report.tokenizer_model = vocabulary.model;
  report.pretokenizer = vocabulary.pretokenizer;
  report.vocab_size = static_cast<int>(vocabulary.tokens.size());
  report.control_tokens =
      static_cast<int>(std::ranges::count(vocabulary.types, TokenType::kControl));
  report.adds_bos =
      !model.text.tokenizer->Encode("", /*parse_special=*/true, /*add_bos=*/true).empty();
  report.bos = named(vocabulary.bos_token);
  report.eos = named(vocabulary.eos_token);
  report.unknown = named(vocabulary.unknown_token);
  for (const int32_t id : vocabulary.end_of_generation) {
    report.end_of_generation.push_back(*named(id));
  }
}

/// Tries the chat template with a user's message, and with what else conversations hold.
void DescribeChat(const absl::StatusOr<ChatTemplate>& chat, Report& report) {
  if (!chat.ok()) {
    report.chat = std::string(chat.status().message());
    return;
  }
  const ChatMessage system = {.role = "system", .content = "Be brief."};
  const ChatMessage user = {.role = "user", .content = "Hello"};
  const Tool tool = {.name = "clock", .description = "Tells the time.", .parameters = "{}"};
  const ChatMessage call = {
      .role = "assistant", .tool_calls = {{.id = "call12345", .name = "clock", .arguments = "{}"}}};
  const ChatMessage result = {
      .role = "tool", .content = "12:00", .tool_call_id = "call12345", .name = "clock"};
  const auto refusal = [&](const Conversation& conversation) {
    return std::string(chat->Render(conversation, absl::Now()).status().message());
  };
  const std::string alone = refusal({.messages = {user}});
  report.chat = alone.empty() ? "renders" : alone;
  const auto add = [&](const char* what, const std::string& why) {
    if (why.empty()) return;
    absl::StrAppend(&report.chat_refusals, report.chat_refusals.empty() ? "" : "; ", what, ": ",
                    why);
  };
  add("a system message", refusal({.messages = {system, user}}));
  add("tools", refusal({.messages = {user}, .tools = {tool}}));
  add("a tool's result", refusal({.messages = {user, call, result}, .tools = {tool}}));
}

void DescribeRope(const Checkpoint& checkpoint, Report& report) {
  if (checkpoint.gguf() == nullptr) {
    report.rope_scaling = "as config.json says";
    return;
  }
  const GgufFile& file = *checkpoint.gguf();
  const std::string prefix = report.config.architecture + ".rope.";
  report.rope_base = file.GetFloat(prefix + "freq_base").value_or(10000);
  if (file.FindTensor(kRopeFactorsTensor) != nullptr) {
    report.rope_scaling = "by frequency (Llama 3)";
    return;
  }
  if (file.FindTensor(kLongRopeFactorsTensor) != nullptr) {
    report.rope_scaling = "by frequency (longrope)";
    return;
  }
  if (file.GetString(prefix + "scaling.type").value_or("") == "yarn") {
    report.rope_scaling =
        absl::StrFormat("YaRN, %g", file.GetFloat(prefix + "scaling.factor").value_or(1));
    return;
  }
  // The first pair's frequency is 1 when nothing is scaled.
  const double factor = 1 / report.config.ropes[0].frequencies[0];
  report.rope_scaling = factor == 1 ? "none" : absl::StrFormat("linear, %g", factor);
}

absl::StatusOr<Report> Inspect(const std::string& path, int context) {
  const absl::StatusOr<ModelFile> model = ModelFile::Open(path);
  if (!model.ok()) return model.status();
  Report report;
  report.path = path;
  const Checkpoint& checkpoint = *model->checkpoint;
  report.file_bytes = checkpoint.file_bytes();
  report.config = checkpoint.config();
  report.context_tokens = context > 0 ? context : report.config.max_context;
  if (report.context_tokens > report.config.max_context) {
    return absl::InvalidArgumentError(absl::StrCat("--context ", context, " is beyond the ",
                                                   report.config.max_context,
                                                   " tokens that the model was trained for"));
  }
  CountTensors(checkpoint, report);
  CountMemory(checkpoint, report);
  DescribeRope(checkpoint, report);
  DescribeTokenizer(*model, report);
  DescribeChat(model->chat, report);
  return report;
}

Json ToJson(const NamedToken& token) { return {{"id", token.id}, {"text", token.text}}; }

Json ToJson(const std::optional<NamedToken>& token) {
  return token ? ToJson(*token) : Json(nullptr);
}

Json ToJson(const Report& report) {
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
          {"rope",
           {{"dimensions", config.ropes[0].dim},
            {"pairing", PairingName(config.ropes[0].pairing)},
            {"base", report.rope_base ? Json(*report.rope_base) : Json(nullptr)},
            {"scaling", report.rope_scaling}}},
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
          {"memory",
           {{"context_tokens", report.context_tokens},
            {"weight_bytes", report.weight_bytes},
            {"embedding_bytes", report.embedding_bytes},
            {"kv_bytes_per_token", config.kv_bytes_per_token()},
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

void PrintTable(const Report& report) {
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
  print("RoPE",
        absl::StrFormat("%d dimensions in pairs (%s)%s, scaling %s", config.ropes[0].dim,
                        PairingName(config.ropes[0].pairing),
                        report.rope_base ? absl::StrFormat(", base %g", *report.rope_base) : "",
                        report.rope_scaling));
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
  print("memory", absl::StrCat(Megabytes(report.total_bytes()), " at a context of ",
                               report.context_tokens, " tokens"));
  print("  weights", absl::StrCat(Megabytes(report.weight_bytes), " as loaded"));
  print("  embeddings", absl::StrCat(Megabytes(report.embedding_bytes), " read in the file"));
  print("  KV", absl::StrCat(Megabytes(report.kv_bytes()), ", ", config.kv_bytes_per_token(),
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
  const absl::StatusOr<Report> report = Inspect(path, context);
  if (!report.ok()) return Fail(flags, report.status());
  if (json) {
    std::puts(ToJson(*report).dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
  } else {
    PrintTable(*report);
  }
  return 0;
}

}  // namespace winnow

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/request/request.h"
#include "server/base/file.h"
#include "server/base/utf8.h"
#include "server/commands/client_options.h"
#include "server/commands/commands.h"
#include "server/commands/flags.h"
#include "server/grpc/response.h"
#include "winnow/v1/generation.grpc.pb.h"

namespace winnow {
namespace {

struct GenerateFlags {
  ClientOptions client;
  std::string model;
  std::string prompt;
  std::string prompt_file;
  bool chat = false;
  std::string system;
  std::string tools_file;
  std::vector<std::string> template_arguments;
  std::optional<int> max_tokens;
  std::optional<double> temperature;
  std::optional<int> top_k;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::string generation_config = "auto";
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  std::string policy;
  std::optional<double> sparsity;
  std::optional<int> budget_tokens;
  int priority = 0;
  double timeout_seconds = 0;
  bool json = false;
};

void Declare(FlagSet& set, GenerateFlags& flags) {
  DeclareClientFlags(set, flags.client);
  set.Add("model", &flags.model, "NAME", "The model to use. Default: the one that is served.");
  set.Add("prompt", &flags.prompt, "TEXT", "What to continue. Required, unless there is a file.");
  set.Add("prompt-file", &flags.prompt_file, "FILE",
          "A text to put in front of the prompt, such as a document to ask about.");
  set.Add("chat", &flags.chat, "", "Send the prompt as a user's message to a chat model.");
  set.Add("system", &flags.system, "TEXT", "With --chat: the system message.");
  set.Add("tools", &flags.tools_file, "FILE",
          "With --chat: functions that the model may call, a JSON list as OpenAI's API has it.");
  set.Add("template-argument", &flags.template_arguments, "NAME=VALUE",
          "With --chat: a variable of the chat template, such as enable_thinking=false. The value "
          "is JSON, or else text.");
  set.Add("max-tokens", &flags.max_tokens, "N",
          "Most tokens to generate. Default: 256, or what the context leaves.");
  set.Add("temperature", &flags.temperature, "X",
          "0 always takes the most probable token; higher is more varied. Default: the "
          "model's, else 1.");
  set.Add("top-k", &flags.top_k, "K",
          "Choose among the K most probable tokens; 0 is all. Default: "
          "the model's, else all.");
  set.Add("top-p", &flags.top_p, "P",
          "Choose among the most probable tokens that together have this probability. Default: the "
          "model's, else 1.");
  set.Add("min-p", &flags.min_p, "P",
          "Leave out tokens below this share of the most probable one's probability. Default: the "
          "model's, else 0.");
  set.AddChoice("generation-config", &flags.generation_config, {"auto", "off"},
                "Defaults of how to sample: as the server has them, which are what the model's "
                "authors recommend, or as if they recommended nothing.");
  set.Add("seed", &flags.seed, "N", "Makes sampling reproducible.");
  set.Add("stop", &flags.stop, "TEXT", "End where this appears.");
  set.Add("ignore-eos", &flags.ignore_eos, "", "Go on past the model's end of text.");
  set.Add("policy", &flags.policy, "NAME",
          "Attention of the generated tokens: dense, double-sparsity or window. Default: the "
          "server's.");
  set.Add("sparsity", &flags.sparsity, "N", "Attend to one token in N. Default: the server's.");
  set.Add("budget-tokens", &flags.budget_tokens, "TOKENS",
          "Attend to so many tokens, whatever the context.");
  set.Add("priority", &flags.priority, "LEVEL",
          "Lower ones come first, down to what the server allows.");
  set.Add("timeout", &flags.timeout_seconds, "SECONDS", "Deadline of the call; 0 is none.",
          {0, 1e6});
  set.Add("json", &flags.json, "", "Print one JSON object at the end instead of the text.");
}

/// INVALID_ARGUMENT unless the text is UTF-8, as messages have it.
absl::Status CheckUtf8(const std::string& what, const std::string& text) {
  if (IsUtf8(text)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(what, " is not UTF-8 from byte ", Utf8PrefixBytes(text), " on"));
}

/// Puts the text of the file in front of the prompt, and checks all texts.
absl::Status ReadTexts(GenerateFlags& flags) {
  std::string text;
  if (!flags.prompt_file.empty()) {
    absl::StatusOr<std::string> read = ReadFile(flags.prompt_file);
    if (!read.ok()) return read.status();
    text = *std::move(read);
  }
  absl::Status status = CheckUtf8(flags.prompt_file, text);
  status.Update(CheckUtf8("--prompt", flags.prompt));
  status.Update(CheckUtf8("--system", flags.system));
  status.Update(CheckUtf8("--model", flags.model));
  status.Update(CheckUtf8("--policy", flags.policy));
  for (const std::string& stop : flags.stop) status.Update(CheckUtf8("--stop", stop));
  for (const std::string& argument : flags.template_arguments) {
    status.Update(CheckUtf8("--template-argument", argument));
  }
  flags.prompt = text + flags.prompt;
  return status;
}

/// Reads [{"type": "function", "function": {"name": ..., "description": ..., "parameters": ...}}].
absl::Status ReadTools(const std::string& path, v1::ChatMessages& chat) {
  const absl::StatusOr<std::string> text = ReadFile(path);
  if (!text.ok()) return text.status();
  const auto list = nlohmann::ordered_json::parse(*text, nullptr, /*allow_exceptions=*/false);
  const auto wrong = [&](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
  };
  if (!list.is_array()) return wrong("is no JSON list of functions");
  for (const auto& entry : list) {
    const auto& function = entry.contains("function") ? entry["function"] : entry;
    if (!function.is_object() || !function.contains("name") || !function["name"].is_string()) {
      return wrong(absl::StrCat("function ", chat.tools_size(), " has no name"));
    }
    v1::Tool* tool = chat.add_tools();
    tool->set_name(function["name"].get<std::string>());
    if (function.contains("description") && function["description"].is_string()) {
      tool->set_description(function["description"].get<std::string>());
    }
    if (function.contains("parameters")) tool->set_parameters(function["parameters"].dump());
  }
  return absl::OkStatus();
}

/// Adds NAME=VALUE.
absl::Status AddTemplateArgument(const std::string& argument, v1::ChatMessages& chat) {
  const size_t equals = argument.find('=');
  if (equals == std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("--template-argument ", argument, ": must be NAME=VALUE"));
  }
  const std::string value = argument.substr(equals + 1);
  (*chat.mutable_template_arguments())[argument.substr(0, equals)] =
      nlohmann::json::accept(value) ? value : nlohmann::json(value).dump();
  return absl::OkStatus();
}

/// The conversation that the flags describe.
absl::StatusOr<v1::ChatMessages> MakeChat(const GenerateFlags& flags) {
  v1::ChatMessages chat;
  if (!flags.system.empty()) {
    v1::ChatMessage* message = chat.add_messages();
    message->set_role("system");
    message->set_content(flags.system);
  }
  v1::ChatMessage* message = chat.add_messages();
  message->set_role("user");
  message->set_content(flags.prompt);
  absl::Status status;
  if (!flags.tools_file.empty()) status.Update(ReadTools(flags.tools_file, chat));
  for (const std::string& argument : flags.template_arguments) {
    status.Update(AddTemplateArgument(argument, chat));
  }
  if (!status.ok()) return status;
  return chat;
}

/// A flag that is given and means something with --chat only; empty: none.
std::string ChatFlag(const GenerateFlags& flags) {
  if (!flags.system.empty()) return "--system";
  if (!flags.tools_file.empty()) return "--tools";
  if (!flags.template_arguments.empty()) return "--template-argument";
  return "";
}

absl::StatusOr<v1::GenerateRequest> MakeRequest(const GenerateFlags& flags) {
  v1::GenerateRequest request;
  request.set_model(flags.model);
  if (flags.chat) {
    absl::StatusOr<v1::ChatMessages> chat = MakeChat(flags);
    if (!chat.ok()) return chat.status();
    *request.mutable_chat() = *std::move(chat);
  } else if (const std::string flag = ChatFlag(flags); !flag.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(flag, " is of a chat: it needs --chat"));
  } else {
    request.set_text(flags.prompt);
  }
  v1::SamplingParams* sampling = request.mutable_sampling();
  if (flags.generation_config == "off") {
    const SamplingParams plain;
    sampling->set_temperature(plain.temperature);
    sampling->set_top_k(plain.top_k);
    sampling->set_top_p(plain.top_p);
    sampling->set_min_p(plain.min_p);
    sampling->set_repetition_penalty(plain.repetition_penalty);
  }
  if (flags.temperature) sampling->set_temperature(static_cast<float>(*flags.temperature));
  if (flags.top_k) sampling->set_top_k(*flags.top_k);
  if (flags.top_p) sampling->set_top_p(static_cast<float>(*flags.top_p));
  if (flags.min_p) sampling->set_min_p(static_cast<float>(*flags.min_p));
  if (flags.seed) sampling->set_seed(*flags.seed);
  v1::AttentionPolicy* attention = request.mutable_attention();
  attention->set_policy(flags.policy);
  if (flags.sparsity) attention->set_sparsity(*flags.sparsity);
  if (flags.budget_tokens) attention->set_budget_tokens(*flags.budget_tokens);
  if (flags.max_tokens) request.mutable_stop()->set_max_tokens(*flags.max_tokens);
  request.mutable_stop()->set_ignore_eos(flags.ignore_eos);
  request.set_priority(flags.priority);
  for (const std::string& stop : flags.stop) request.mutable_stop()->add_strings(stop);
  return request;
}

/// The whole of a continuation and what it took.
struct Completion {
  std::string text;
  std::vector<int32_t> token_ids;
  v1::FinishReason finish_reason = v1::FINISH_REASON_UNSPECIFIED;
  v1::Summary summary;
};

void PrintJson(const Completion& completion) {
  const v1::Usage& usage = completion.summary.usage();
  const v1::Timings& timings = completion.summary.timings();
  const v1::Sparsity& sparsity = completion.summary.sparsity();
  nlohmann::ordered_json recall;  // null where nothing was sampled
  nlohmann::ordered_json estimated;
  if (sparsity.has_sampled_recall()) {
    recall = sparsity.sampled_recall();
    estimated = sparsity.sampled_estimated_mass();
  }
  const nlohmann::ordered_json json = {
      {"text", completion.text},
      {"token_ids", completion.token_ids},
      {"finish_reason", FinishReasonName(completion.finish_reason)},
      {"usage",
       {{"prompt_tokens", usage.prompt_tokens()},
        {"cached_tokens", usage.cached_tokens()},
        {"generated_tokens", usage.generated_tokens()}}},
      {"timings",
       {{"queue_seconds", timings.queue_seconds()},
        {"ttft_seconds", timings.ttft_seconds()},
        {"total_seconds", timings.total_seconds()}}},
      {"sparsity",
       {{"policy", sparsity.policy()},
        {"kv_bytes_read", sparsity.kv_bytes_read()},
        {"kv_bytes_dense", sparsity.kv_bytes_dense()},
        {"mean_budget_tokens", sparsity.mean_budget_tokens()},
        {"sampled_recall", recall},
        {"sampled_estimated_mass", estimated}}}};
  std::puts(json.dump().c_str());
}

void PrintSpeed(const v1::Summary& summary) {
  const int tokens = summary.usage().generated_tokens();
  const v1::Timings& timings = summary.timings();
  const double decode_seconds = timings.total_seconds() - timings.ttft_seconds();
  std::string speed;
  if (tokens > 1 && decode_seconds > 0) {
    speed = absl::StrFormat(", %.1f tokens/s", (tokens - 1) / decode_seconds);
  }
  std::fputs(absl::StrFormat("%d prompt + %d generated tokens%s, TTFT %.0f ms, total %.2f s\n",
                             summary.usage().prompt_tokens(), tokens, speed,
                             timings.ttft_seconds() * 1e3, timings.total_seconds())
                 .c_str(),
             stderr);
}

void PrintSparsity(const v1::Sparsity& sparsity) {
  std::string line = absl::StrFormat(
      "attention %s: read %.1f MB of KV and labels, dense reads %.1f MB (%.1f %%), "
      "%.0f tokens a head",
      sparsity.policy(), static_cast<double>(sparsity.kv_bytes_read()) / 1e6,
      static_cast<double>(sparsity.kv_bytes_dense()) / 1e6,
      100.0 * static_cast<double>(sparsity.kv_bytes_read()) /
          static_cast<double>(std::max<int64_t>(1, sparsity.kv_bytes_dense())),
      sparsity.mean_budget_tokens());
  if (sparsity.has_sampled_recall()) {
    absl::StrAppendFormat(&line, ", recall %.3f, estimated %.3f", sparsity.sampled_recall(),
                          sparsity.sampled_estimated_mass());
  }
  std::fputs((line + "\n").c_str(), stderr);
}

/// Streams the completion, printing the text as it comes unless `json`.
absl::StatusOr<Completion> Stream(const GenerateFlags& flags) {
  const absl::StatusOr<v1::GenerateRequest> request = MakeRequest(flags);
  if (!request.ok()) return request.status();
  const absl::StatusOr<Connection> connection = Connection::Open(flags.client);
  if (!connection.ok()) return connection.status();
  const auto stub = v1::GenerationService::NewStub(connection->channel());
  grpc::ClientContext call;
  connection->Authorize(call);
  if (flags.timeout_seconds > 0) {
    call.set_deadline(
        std::chrono::system_clock::now() +
        std::chrono::milliseconds(static_cast<int64_t>(flags.timeout_seconds * 1000)));
  }
  const auto reader = stub->Generate(&call, *request);
  Completion completion;
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
    for (const v1::Output& output : message.outputs()) {
      completion.text += output.text();
      completion.token_ids.insert(completion.token_ids.end(), output.token_ids().begin(),
                                  output.token_ids().end());
      completion.finish_reason = output.finish_reason();
      if (flags.json) continue;
      std::fwrite(output.text().data(), 1, output.text().size(), stdout);
      std::fflush(stdout);
    }
    completion.summary = message.summary();
  }
  if (!flags.json && !completion.text.empty()) std::putchar('\n');
  std::fflush(stdout);  // what follows goes to stderr
  if (const grpc::Status status = reader->Finish(); !status.ok()) {
    return CallError(flags.client, status);
  }
  return completion;
}

}  // namespace

int RunGenerate(std::span<const std::string> arguments) {
  GenerateFlags flags;
  FlagSet set("winnow generate", "Streams a completion from a server to the terminal.");
  Declare(set, flags);
  if (std::optional<int> exit_code = ParseOrExitCode(set, arguments)) return *exit_code;
  if (!set.IsSet("prompt") && flags.prompt_file.empty()) {
    std::fprintf(stderr, "winnow generate: --prompt is missing (see winnow generate --help)\n");
    return 2;
  }
  if (absl::Status status = ReadTexts(flags); !status.ok()) return Fail(set, status);
  const absl::StatusOr<Completion> completion = Stream(flags);
  if (!completion.ok()) return Fail(set, completion.status());
  if (flags.json) {
    PrintJson(*completion);
  } else {
    PrintSpeed(completion->summary);
    PrintSparsity(completion->summary.sparsity());
  }
  return 0;
}

}  // namespace winnow

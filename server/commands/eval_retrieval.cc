#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "engine/eval/retrieval.h"
#include "server/commands/eval_commands.h"
#include "server/commands/eval_support.h"
#include "server/commands/progress.h"

namespace winnow {
namespace {

struct RetrievalFlags {
  EvalFlags common;
  std::string cases;
  int limit = 0;
  std::string ask = "completion";
  bool answers = false;
  RetrievalOptions options = {.step_rows = kEvalStepRows};
};

/// What the model gets of a case. `line` is the one asked for, or empty. INVALID_ARGUMENT when the
/// model has no chat template.
absl::StatusOr<std::vector<int32_t>> EncodeCase(const std::string& prompt, const std::string& line,
                                                int64_t number, const RetrievalFlags& flags,
                                                const ModelFile& file) {
  const Tokenizer& tokenizer = *file.text.tokenizer;
  if (flags.ask != "chat") {
    const bool completes = flags.ask == "completion" && !line.empty();
    const std::string start = line.substr(0, line.find(absl::StrCat(number)));
    return tokenizer.Encode(completes ? absl::StrCat(prompt, "\n\n", start) : prompt,
                            /*parse_special=*/false, /*add_bos=*/true);
  }
  if (!file.chat.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--ask chat: ", file.chat.status().message()));
  }
  const Conversation conversation = {.messages = {{.role = "user", .content = prompt}}};
  const absl::StatusOr<std::vector<TextSegment>> rendered =
      file.chat->Render(conversation, absl::Now());
  if (!rendered.ok()) return rendered.status();
  return tokenizer.EncodeSegments(*rendered, /*add_bos=*/false);
}

/// The first --limit cases of the file. INVALID_ARGUMENT names the line at fault.
absl::StatusOr<std::vector<RetrievalCase>> ReadCases(const RetrievalFlags& flags,
                                                     const ModelFile& file) {
  const absl::StatusOr<std::string> text = ReadText(flags.cases, "--cases");
  if (!text.ok()) return text.status();
  const std::vector<std::string> lines = absl::StrSplit(*text, '\n');
  std::vector<RetrievalCase> cases;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (lines[i].empty()) continue;
    if (flags.limit > 0 && static_cast<int>(cases.size()) == flags.limit) break;
    const nlohmann::json json =
        nlohmann::json::parse(lines[i], nullptr, /*allow_exceptions=*/false);
    const bool valid = json.is_object() && json.contains("prompt") && json["prompt"].is_string() &&
                       json.contains("expected_number") &&
                       json["expected_number"].is_number_integer();
    if (!valid) {
      return absl::InvalidArgumentError(
          absl::StrCat("--cases: line ", i + 1,
                       " is no JSON object with a string prompt and an integer expected_number"));
    }
    const auto number = json["expected_number"].get<int64_t>();
    const auto line = json.find("correct_line");
    absl::StatusOr<std::vector<int32_t>> prompt =
        EncodeCase(json["prompt"].get<std::string>(),
                   line != json.end() && line->is_string() ? line->get<std::string>() : "", number,
                   flags, file);
    if (!prompt.ok()) return prompt.status();
    if (prompt->empty()) {
      return absl::InvalidArgumentError(absl::StrCat("--cases: line ", i + 1, " has no prompt"));
    }
    cases.push_back({*std::move(prompt), number});
  }
  if (cases.empty()) return absl::InvalidArgumentError("--cases has no cases");
  return cases;
}

void PrintRetrievalJson(const std::vector<RetrievalResult>& results, const EvalModel& model,
                        bool answers) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const RetrievalResult& result : results) {
    nlohmann::ordered_json json = {{"policy", std::string(PolicyName(result.policy.kind))},
                                   {"correct", result.correct},
                                   {"total", result.total}};
    AddPolicy(result.policy, model, &json);
    json["mean_budget_fraction"] = BudgetFraction(result.traffic);
    json["kv_bytes_read"] = result.traffic.bytes();
    json["kv_bytes_dense"] = result.traffic.equivalent_bytes;
    if (answers) json["answers"] = result.answers;
    list.push_back(std::move(json));
  }
  const nlohmann::ordered_json json = {{"results", list}};
  // What a model answers need not be UTF-8.
  constexpr auto kReplace = nlohmann::ordered_json::error_handler_t::replace;
  std::puts(json.dump(-1, ' ', false, kReplace).c_str());
}

void PrintRetrievalTable(const std::vector<RetrievalResult>& results,
                         const std::vector<RetrievalCase>& cases, bool answers) {
  if (answers) {
    for (size_t i = 0; i < cases.size(); ++i) {
      std::printf("case %zu, expected %lld\n", i + 1,
                  static_cast<long long>(cases[i].expected_number));
      for (const RetrievalResult& result : results) {
        std::printf("  %-24s %s\n", Title(result.policy).c_str(), result.answers[i].c_str());
      }
    }
  }
  std::printf("%-24s %8s %6s %8s %8s\n", "policy", "correct", "total", "budget", "KV read");
  for (const RetrievalResult& result : results) {
    std::printf("%-24s %8d %6d %6.2f %% %6.2f %%\n", Title(result.policy).c_str(), result.correct,
                result.total, 100 * BudgetFraction(result.traffic),
                100.0 * static_cast<double>(result.traffic.bytes()) /
                    static_cast<double>(result.traffic.equivalent_bytes));
  }
}

absl::Status EvaluateRetrieval(const RetrievalFlags& flags) {
  RetrievalOptions options = flags.options;
  const absl::StatusOr<std::vector<AttentionPolicy>> policies = ReadPolicies(flags.common);
  if (!policies.ok()) return policies.status();
  absl::StatusOr<ModelFile> file = OpenModel(flags.common);
  if (!file.ok()) return file.status();
  const absl::StatusOr<std::vector<RetrievalCase>> cases = ReadCases(flags, *file);
  if (!cases.ok()) return cases.status();
  size_t longest = 0;
  for (const RetrievalCase& question : *cases) longest = std::max(longest, question.prompt.size());
  const absl::StatusOr<EvalModel> model =
      LoadModel(flags.common, *std::move(file), static_cast<int>(longest) + options.max_tokens);
  if (!model.ok()) return model.status();
  options.block_tokens = model->loaded.pools->block_tokens();

  absl::StatusOr<std::vector<RetrievalResult>> results;
  {
    ProgressBar bar("answering");
    const int64_t rows = RetrievalRows(*cases, options, static_cast<int>(policies->size()));
    results = EvalRetrieval(model->transformer(), *model->file.text.tokenizer, *cases, *policies,
                            options, Advance(bar, rows));
  }
  if (!results.ok()) return results.status();
  if (flags.common.json) {
    PrintRetrievalJson(*results, *model, flags.answers);
  } else {
    PrintRetrievalTable(*results, *cases, flags.answers);
  }
  return absl::OkStatus();
}

}  // namespace

int RunEvalRetrieval(std::span<const std::string> arguments) {
  RetrievalFlags flags;
  FlagSet set("winnow eval retrieval",
              "Counts how often the first number of a greedy answer is the one asked for, through "
              "every policy.");
  Declare(set, flags.common);
  set.Add("cases", &flags.cases, "FILE",
          "One JSON object a line, with prompt, expected_number and perhaps correct_line, the line "
          "of the prompt that holds the number. Required.");
  set.Add("limit", &flags.limit, "K", "Only the first K cases; 0 is all.", {0, 1 << 30});
  set.AddChoice("ask", &flags.ask, {"completion", "plain", "chat"},
                "How: the prompt and after it the case's correct_line up to the number, if it has "
                "one, which small models manage best; the prompt alone; or the prompt as a user's "
                "message to a chat model.");
  set.Add("sparse-tail", &flags.options.sparse_tail, "TOKENS",
          "Last tokens of the prompt that select like generated ones; what is before them is "
          "computed densely. Where the tail is 0, as in serving, the model looks for the number "
          "while it still sees the whole prompt, and the answer's first token costs a policy "
          "nothing.",
          {0, 1 << 24});
  set.Add("max-tokens", &flags.options.max_tokens, "N", "Most tokens of an answer.", {1, 4096});
  set.Add("answers", &flags.answers, "", "Print the answers too.");
  if (std::optional<int> exit_code = ParseOrExitCode(set, arguments)) return *exit_code;
  if (absl::Status status = EvaluateRetrieval(flags); !status.ok()) return Fail(set, status);
  return 0;
}

}  // namespace winnow

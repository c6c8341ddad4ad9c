#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/eval/choice.h"
#include "engine/eval/choice_question.h"
#include "server/commands/eval_commands.h"
#include "server/commands/eval_support.h"
#include "server/commands/progress.h"

namespace winnow {
namespace {

struct ChoiceFlags {
  EvalFlags common;
  std::string cases;
  std::string shots_file;
  int shots = 5;
  int limit = 0;
  std::string ask = "letters";
  std::string preamble = "The following are multiple choice questions (with answers).";
  bool answers = false;
  ChoiceOptions options = {.step_rows = kEvalStepRows};

  bool letters() const { return ask == "letters"; }
};

/// The first `limit` questions of a file, 0: all. INVALID_ARGUMENT names the flag and the line.
absl::StatusOr<std::vector<ChoiceQuestion>> ReadQuestions(const std::string& path, const char* flag,
                                                          int limit) {
  const absl::StatusOr<std::string> text = ReadText(path, flag);
  if (!text.ok()) return text.status();
  absl::StatusOr<std::vector<ChoiceQuestion>> questions =
      absl::EndsWith(path, ".csv") ? ParseChoiceCsv(*text) : ParseChoiceJsonLines(*text);
  if (!questions.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, ": ", std::string(questions.status().message())));
  }
  if (questions->empty())
    return absl::InvalidArgumentError(absl::StrCat(flag, " has no questions"));
  if (limit > 0 && static_cast<size_t>(limit) < questions->size()) {
    questions->resize(static_cast<size_t>(limit));
  }
  return questions;
}

absl::StatusOr<std::vector<ChoiceCase>> ReadCases(const ChoiceFlags& flags, const ModelFile& file) {
  const absl::StatusOr<std::vector<ChoiceQuestion>> questions =
      ReadQuestions(flags.cases, "--cases", flags.limit);
  if (!questions.ok()) return questions.status();
  std::vector<ChoiceQuestion> shots;
  if (!flags.shots_file.empty() && flags.shots > 0) {
    absl::StatusOr<std::vector<ChoiceQuestion>> read =
        ReadQuestions(flags.shots_file, "--shots-file", flags.shots);
    if (!read.ok()) return read.status();
    shots = *std::move(read);
  }
  const ChoicePrompt prompt = {.letters = flags.letters(),
                               .preamble = flags.letters() ? flags.preamble : "",
                               .shots = shots};
  std::vector<ChoiceCase> cases;
  for (const ChoiceQuestion& question : *questions) {
    cases.push_back(EncodeChoice(question, prompt, *file.text.tokenizer));
    if (cases.back().prompt.empty()) {
      return absl::InvalidArgumentError("--cases: a question has no token before its choices");
    }
  }
  return cases;
}

void PrintChoiceJson(const std::vector<ChoiceResult>& results, const EvalModel& model,
                     const ChoiceFlags& flags) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const ChoiceResult& result : results) {
    nlohmann::ordered_json json = {{"policy", std::string(PolicyName(result.policy.kind))},
                                   {"correct", result.correct}};
    if (!flags.letters()) json["correct_by_length"] = result.correct_by_length;
    json["total"] = result.chosen.size();
    AddPolicy(result.policy, model, &json);
    AddTraffic(result.traffic, &json);
    if (flags.answers) {
      json["chosen"] = result.chosen;
      json["log_likelihoods"] = result.log_likelihoods;
    }
    list.push_back(std::move(json));
  }
  PrintJson({{"results", list}});
}

void PrintChoiceTable(const std::vector<ChoiceResult>& results,
                      const std::vector<ChoiceCase>& cases, const ChoiceFlags& flags) {
  if (flags.answers) {
    for (size_t i = 0; i < cases.size(); ++i) {
      std::printf("case %zu, expected %c\n", i + 1, 'A' + cases[i].answer);
      for (const ChoiceResult& result : results) {
        std::printf("  %-24s %c", Title(result.policy).c_str(), 'A' + result.chosen[i]);
        for (const double value : result.log_likelihoods[i]) std::printf(" %8.3f", value);
        std::printf("\n");
      }
    }
  }
  std::printf("%-24s %8s %9s %6s %8s %8s\n", "policy", "correct", "by length", "total", "budget",
              "KV read");
  for (const ChoiceResult& result : results) {
    // Letters are all equally long.
    const std::string by_length = flags.letters() ? "" : absl::StrCat(result.correct_by_length);
    std::printf("%-24s %8d %9s %6zu %6.2f %% %6.2f %%\n", Title(result.policy).c_str(),
                result.correct, by_length.c_str(), result.chosen.size(),
                100 * BudgetFraction(result.traffic), 100 * ReadFraction(result.traffic));
  }
}

absl::Status EvaluateChoice(const ChoiceFlags& flags) {
  ChoiceOptions options = flags.options;
  const absl::StatusOr<std::vector<AttentionPolicy>> policies = ReadPolicies(flags.common);
  if (!policies.ok()) return policies.status();
  absl::StatusOr<ModelFile> file = OpenModel(flags.common);
  if (!file.ok()) return file.status();
  const absl::StatusOr<std::vector<ChoiceCase>> cases = ReadCases(flags, *file);
  if (!cases.ok()) return cases.status();
  const absl::StatusOr<EvalModel> model =
      LoadModel(flags.common, *std::move(file), LongestCase(*cases));
  if (!model.ok()) return model.status();
  options.block_tokens = model->loaded.pools->block_tokens();

  absl::StatusOr<std::vector<ChoiceResult>> results;
  {
    ProgressBar bar("scoring");
    const int64_t rows = ChoiceRows(*cases, options, static_cast<int>(policies->size()));
    results = EvalChoice(model->transformer(), *cases, *policies, options, Advance(bar, rows));
  }
  if (!results.ok()) return results.status();
  if (flags.common.json) {
    PrintChoiceJson(*results, *model, flags);
  } else {
    PrintChoiceTable(*results, *cases, flags);
  }
  return absl::OkStatus();
}

}  // namespace

int RunEvalChoice(std::span<const std::string> arguments) {
  ChoiceFlags flags;
  FlagSet set("winnow eval choice",
              "Counts how often the likeliest of several choices is the right one, through every "
              "policy.");
  Declare(set, flags.common);
  set.Add("cases", &flags.cases, "FILE",
          "The questions: FILE.csv as MMLU has them, or one JSON object a line with question, "
          "choices and answer. Required.");
  set.Add("shots-file", &flags.shots_file, "FILE",
          "Questions of the same form, which the model sees with their answers before each one.");
  set.Add("shots", &flags.shots, "N", "The first N of them.", {0, 1 << 20});
  set.Add("limit", &flags.limit, "K", "Only the first K questions; 0 is all.", {0, 1 << 30});
  set.AddChoice("ask", &flags.ask, {"letters", "texts"},
                "What is scored: the choices' letters after a prompt that lists them, as MMLU has "
                "it; or the choices themselves after the question.");
  set.Add("preamble", &flags.preamble, "TEXT", "The prompt's first line, with letters.");
  set.Add("sparse-tail", &flags.options.sparse_tail, "TOKENS",
          "Last tokens of the prompt that select like generated ones; what is before them is "
          "computed densely. Where the tail is 0, as in serving, a choice's first token costs a "
          "policy nothing.",
          {0, 1 << 24});
  set.Add("answers", &flags.answers, "", "Print the choices too.");
  if (std::optional<int> exit_code = ParseOrExitCode(set, arguments)) return *exit_code;
  if (absl::Status status = EvaluateChoice(flags); !status.ok()) return Fail(set, status);
  return 0;
}

}  // namespace winnow

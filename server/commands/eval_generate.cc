#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/eval/answer_scores.h"
#include "engine/eval/answers.h"
#include "server/commands/eval_commands.h"
#include "server/commands/eval_support.h"
#include "server/commands/progress.h"

namespace winnow {
namespace {

struct GenerateFlags {
  EvalFlags common;
  std::string cases;
  std::string template_file;
  int limit = 0;
  int context = 0;
  std::string ask = "completion";
  bool answers = false;
  AnswerOptions options = {.max_tokens = 64, .step_rows = kEvalStepRows};
};

constexpr const char* kDefaultTemplate = "{context}\n\nQuestion: {input}\nAnswer:";

struct GenerateCases {
  Questions questions;
  std::vector<std::vector<std::string>> expected;  ///< [prompts]
};

/// A policy's answers with the means of their scores.
struct GenerateResult {
  PolicyAnswers answered;
  AnswerScores scores;
};

/// The template that the flags name, with both places in it.
absl::StatusOr<std::string> ReadTemplate(const GenerateFlags& flags) {
  if (flags.template_file.empty()) return std::string(kDefaultTemplate);
  absl::StatusOr<std::string> text = ReadText(flags.template_file, "--template-file");
  if (!text.ok()) return text.status();
  for (const char* place : {"{context}", "{input}"}) {
    if (text->find(place) == std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat("--template-file has no ", place));
    }
  }
  return text;
}

/// A list of strings, none if `json` is anything else.
std::optional<std::vector<std::string>> ReadStrings(const nlohmann::json& json) {
  if (!json.is_array()) return std::nullopt;
  std::vector<std::string> strings;
  for (const nlohmann::json& element : json) {
    if (!element.is_string()) return std::nullopt;
    strings.push_back(element.get<std::string>());
  }
  return strings;
}

/// The first --limit cases of the file, cut down to `context` tokens. INVALID_ARGUMENT names the
/// line at fault.
absl::StatusOr<GenerateCases> ReadCases(const GenerateFlags& flags, int context,
                                        const ModelFile& file) {
  const absl::StatusOr<std::string> form = ReadTemplate(flags);
  if (!form.ok()) return form.status();
  const absl::StatusOr<std::string> text = ReadText(flags.cases, "--cases");
  if (!text.ok()) return text.status();
  GenerateCases cases;
  const auto take = [&](size_t number, const nlohmann::json& json) -> absl::StatusOr<bool> {
    const nlohmann::json text_read = json.value("context", nlohmann::json());
    const nlohmann::json input = json.value("input", nlohmann::json(""));
    std::optional<std::vector<std::string>> expected =
        ReadStrings(json.value("answers", nlohmann::json()));
    if (!text_read.is_string() || !input.is_string() || !expected || expected->empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--cases: line ", number,
                       " has not a string context, perhaps a string input, and a list of answers"));
    }
    const std::string prompt = absl::StrReplaceAll(
        *form,
        {{"{context}", text_read.get<std::string>()}, {"{input}", input.get<std::string>()}});
    absl::StatusOr<std::vector<int32_t>> tokens = EncodePrompt(prompt, flags.ask == "chat", file);
    if (!tokens.ok()) return tokens.status();
    if (tokens->empty()) {
      return absl::InvalidArgumentError(absl::StrCat("--cases: line ", number, " has no prompt"));
    }
    DropMiddle(context, &*tokens);
    cases.questions.prompts.push_back(*std::move(tokens));
    cases.expected.push_back(*std::move(expected));
    return static_cast<int>(cases.questions.prompts.size()) != flags.limit;
  };
  if (absl::Status status = ReadJsonLines(*text, "--cases", take); !status.ok()) return status;
  if (cases.questions.prompts.empty()) return absl::InvalidArgumentError("--cases has no cases");
  return cases;
}

GenerateResult Score(PolicyAnswers answered, const GenerateCases& cases) {
  AnswerScores sum;
  for (size_t i = 0; i < answered.answers.size(); ++i) {
    const AnswerScores scores = ScoreAnswer(answered.answers[i], cases.expected[i]);
    sum.f1 += scores.f1;
    sum.exact_match += scores.exact_match;
    sum.rouge_l += scores.rouge_l;
  }
  const auto count = static_cast<double>(answered.answers.size());
  return {std::move(answered), {sum.f1 / count, sum.exact_match / count, sum.rouge_l / count}};
}

void PrintGenerateJson(const std::vector<GenerateResult>& results, const EvalModel& model,
                       bool answers) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const GenerateResult& result : results) {
    const PolicyAnswers& answered = result.answered;
    nlohmann::ordered_json json = {{"policy", std::string(PolicyName(answered.policy.kind))},
                                   {"f1", result.scores.f1},
                                   {"exact_match", result.scores.exact_match},
                                   {"rouge_l", result.scores.rouge_l},
                                   {"total", answered.answers.size()}};
    AddPolicy(answered.policy, model, &json);
    AddTraffic(answered.traffic, &json);
    if (answers) json["answers"] = answered.answers;
    list.push_back(std::move(json));
  }
  PrintJson({{"results", list}});
}

void PrintGenerateTable(const std::vector<GenerateResult>& results, const GenerateCases& cases,
                        bool answers) {
  if (answers) {
    for (size_t i = 0; i < cases.expected.size(); ++i) {
      std::printf("case %zu, expected %s\n", i + 1, cases.expected[i][0].c_str());
      for (const GenerateResult& result : results) {
        std::printf("  %-24s %s\n", Title(result.answered.policy).c_str(),
                    result.answered.answers[i].c_str());
      }
    }
  }
  std::printf("%-24s %6s %6s %8s %6s %8s %8s\n", "policy", "F1", "exact", "ROUGE-L", "total",
              "budget", "KV read");
  for (const GenerateResult& result : results) {
    const PolicyAnswers& answered = result.answered;
    std::printf("%-24s %6.2f %6.2f %8.2f %6zu %6.2f %% %6.2f %%\n", Title(answered.policy).c_str(),
                100 * result.scores.f1, 100 * result.scores.exact_match,
                100 * result.scores.rouge_l, answered.answers.size(),
                100 * BudgetFraction(answered.traffic), 100 * ReadFraction(answered.traffic));
  }
}

absl::Status EvaluateGenerate(const GenerateFlags& flags) {
  AnswerOptions options = flags.options;
  const absl::StatusOr<std::vector<AttentionPolicy>> policies = ReadPolicies(flags.common);
  if (!policies.ok()) return policies.status();
  absl::StatusOr<ModelFile> file = OpenModel(flags.common);
  if (!file.ok()) return file.status();
  const int context = flags.context > 0 ? flags.context : file->config().max_context;
  if (context <= options.max_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a context of ", context, " tokens has no room beside --max-tokens ", options.max_tokens));
  }
  const absl::StatusOr<GenerateCases> cases = ReadCases(flags, context - options.max_tokens, *file);
  if (!cases.ok()) return cases.status();
  const absl::StatusOr<EvalModel> model =
      LoadModel(flags.common, *std::move(file), LongestQuestion(cases->questions, options));
  if (!model.ok()) return model.status();
  options.block_tokens = model->loaded.pools->block_tokens();

  absl::StatusOr<std::vector<PolicyAnswers>> answered;
  {
    ProgressBar bar("answering");
    const int64_t rows = AnswerRows(cases->questions, options, static_cast<int>(policies->size()));
    answered = AnswerPrompts(model->transformer(), *model->file.text.tokenizer, cases->questions,
                             *policies, options, /*is_whole=*/nullptr, Advance(bar, rows));
  }
  if (!answered.ok()) return answered.status();
  std::vector<GenerateResult> results;
  for (PolicyAnswers& answers : *answered) results.push_back(Score(std::move(answers), *cases));
  if (flags.common.json) {
    PrintGenerateJson(results, *model, flags.answers);
  } else {
    PrintGenerateTable(results, *cases, flags.answers);
  }
  return absl::OkStatus();
}

}  // namespace

int RunEvalGenerate(std::span<const std::string> arguments) {
  GenerateFlags flags;
  FlagSet set("winnow eval generate",
              "Scores greedy answers to questions about long texts by what is expected (F1, exact "
              "match, ROUGE-L, of 100), through every policy.");
  Declare(set, flags.common);
  set.Add("cases", &flags.cases, "FILE",
          "One JSON object a line, as LongBench has them: context, answers of which the best "
          "counts, and perhaps input, the question. Required.");
  set.Add("template-file", &flags.template_file, "FILE",
          "The prompt, with {context} and {input} where those go; by default the context, the "
          "question and \"Answer:\".");
  set.Add("limit", &flags.limit, "K", "Only the first K cases; 0 is all.", {0, 1 << 30});
  set.Add("context", &flags.context, "TOKENS",
          "Most tokens of a prompt and its answer; longer prompts lose their middle. 0: what the "
          "model was trained for.",
          {0, 1 << 24});
  set.AddChoice("ask", &flags.ask, {"completion", "chat"},
                "How: the prompt as a text to go on with, or as a user's message to a chat model.");
  set.Add("sparse-tail", &flags.options.sparse_tail, "TOKENS",
          "Last tokens of the prompt that select like generated ones; what is before them is "
          "computed densely. Where the tail is 0, as in serving, the answer's first token costs a "
          "policy nothing.",
          {0, 1 << 24});
  set.Add("max-tokens", &flags.options.max_tokens, "N", "Most tokens of an answer.", {1, 4096});
  set.Add("answers", &flags.answers, "", "Print the answers too.");
  if (std::optional<int> exit_code = ParseOrExitCode(set, arguments)) return *exit_code;
  if (absl::Status status = EvaluateGenerate(flags); !status.ok()) return Fail(set, status);
  return 0;
}

}  // namespace winnow

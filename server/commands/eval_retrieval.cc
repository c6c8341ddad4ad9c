#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/eval/prediction.h"
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
  AnswerOptions options = {.step_rows = kEvalStepRows};
};

/// What the model gets of a case, whose answer begins with the number right away or not.
struct EncodedCase {
  std::vector<int32_t> prompt;
  bool number_follows = false;
};

/// `line` is the one asked for, or empty.
absl::StatusOr<EncodedCase> EncodeCase(const std::string& prompt, const std::string& line,
                                       int64_t number, const RetrievalFlags& flags,
                                       const ModelFile& file) {
  const bool completes = flags.ask == "completion" && !line.empty();
  const std::string start =
      completes ? absl::StrCat("\n\n", line.substr(0, line.rfind(absl::StrCat(number)))) : "";
  absl::StatusOr<std::vector<int32_t>> tokens =
      EncodePrompt(absl::StrCat(prompt, start), flags.ask == "chat", file);
  if (!tokens.ok()) return tokens.status();
  return EncodedCase{*std::move(tokens), completes};
}

/// The first --limit cases of the file. INVALID_ARGUMENT names the line at fault.
absl::StatusOr<RetrievalCases> ReadCases(const RetrievalFlags& flags, const ModelFile& file) {
  const absl::StatusOr<std::string> text = ReadText(flags.cases, "--cases");
  if (!text.ok()) return text.status();
  RetrievalCases cases;
  bool all_follow = true;
  const auto take = [&](size_t number, const nlohmann::json& json) -> absl::StatusOr<bool> {
    const auto prompt = json.find("prompt");
    const auto expected = json.find("expected_number");
    if (prompt == json.end() || !prompt->is_string() || expected == json.end() ||
        !expected->is_number_integer()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--cases: line ", number, " has not a string prompt and an integer expected_number"));
    }
    const auto line = json.find("correct_line");
    const std::string text =
        line != json.end() && line->is_string() ? line->get<std::string>() : "";
    const auto wanted = expected->get<int64_t>();
    if (!text.empty() && text.find(absl::StrCat(wanted)) == std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--cases: line ", number, " has a correct_line without its expected_number"));
    }
    absl::StatusOr<EncodedCase> encoded =
        EncodeCase(prompt->get<std::string>(), text, wanted, flags, file);
    if (!encoded.ok()) return encoded.status();
    if (encoded->prompt.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("--cases: line ", number, " has no prompt"));
    }
    cases.prompts.push_back(std::move(encoded->prompt));
    cases.expected_numbers.push_back(wanted);
    all_follow = all_follow && encoded->number_follows;
    return static_cast<int>(cases.prompts.size()) != flags.limit;
  };
  if (absl::Status status = ReadJsonLines(*text, "--cases", take); !status.ok()) return status;
  if (cases.prompts.empty()) return absl::InvalidArgumentError("--cases has no cases");
  if (!all_follow) return cases;  // how likely the number is at once says little
  for (const int64_t number : cases.expected_numbers) {
    cases.expected.push_back(file.text.tokenizer->Encode(
        absl::StrCat(number), /*parse_special=*/false, /*add_bos=*/false));
  }
  return cases;
}

SampleMean MeanOf(const std::vector<double>& values) {
  SampleMean mean;
  for (const double value : values) mean.Add(value);
  return mean;
}

void PrintRetrievalJson(const std::vector<RetrievalResult>& results, const EvalModel& model,
                        bool answers) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const RetrievalResult& result : results) {
    nlohmann::ordered_json json = {{"policy", std::string(PolicyName(result.policy.kind))},
                                   {"correct", result.correct},
                                   {"total", result.answers.size()}};
    AddPolicy(result.policy, model, &json);
    AddTraffic(result.traffic, &json);
    if (!result.log_likelihoods.empty()) {
      const SampleMean mean = MeanOf(result.log_likelihoods);
      json["log_likelihood"] = mean.mean();
      json["log_likelihood_error"] = mean.standard_error();
    }
    if (answers) json["answers"] = result.answers;
    list.push_back(std::move(json));
  }
  PrintJson({{"results", list}});
}

void PrintRetrievalTable(const std::vector<RetrievalResult>& results, const RetrievalCases& cases,
                         bool answers) {
  if (answers) {
    for (size_t i = 0; i < cases.expected_numbers.size(); ++i) {
      std::printf("case %zu, expected %lld\n", i + 1,
                  static_cast<long long>(cases.expected_numbers[i]));
      for (const RetrievalResult& result : results) {
        std::printf("  %-24s %s\n", Title(result.policy).c_str(), result.answers[i].c_str());
      }
    }
  }
  const bool scored = !results[0].log_likelihoods.empty();
  std::printf("%-24s %8s %6s%s %8s %8s\n", "policy", "correct", "total",
              scored ? "   log-likelihood" : "", "budget", "KV read");
  for (const RetrievalResult& result : results) {
    std::printf("%-24s %8d %6zu", Title(result.policy).c_str(), result.correct,
                result.answers.size());
    if (scored) {
      const SampleMean mean = MeanOf(result.log_likelihoods);
      std::printf(" %8.4f ± %5.4f", mean.mean(), mean.standard_error());
    }
    std::printf(" %6.2f %% %6.2f %%\n", 100 * BudgetFraction(result.traffic),
                100 * ReadFraction(result.traffic));
  }
  if (scored) std::printf("log-likelihood: of the number, mean ± one standard error\n");
}

absl::Status EvaluateRetrieval(const RetrievalFlags& flags) {
  AnswerOptions options = flags.options;
  const absl::StatusOr<std::vector<AttentionPolicy>> policies = ReadPolicies(flags.common);
  if (!policies.ok()) return policies.status();
  absl::StatusOr<ModelFile> file = OpenModel(flags.common);
  if (!file.ok()) return file.status();
  const absl::StatusOr<RetrievalCases> cases = ReadCases(flags, *file);
  if (!cases.ok()) return cases.status();
  const absl::StatusOr<EvalModel> model =
      LoadModel(flags.common, *std::move(file), LongestQuestion(*cases, options));
  if (!model.ok()) return model.status();
  options.block_tokens = model->loaded.pools->block_tokens();

  absl::StatusOr<std::vector<RetrievalResult>> results;
  {
    ProgressBar bar("answering");
    const int64_t rows = AnswerRows(*cases, options, static_cast<int>(policies->size()));
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
              "every policy, and, where every case is completed, how likely that number is.");
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

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "engine/attention/label_file.h"
#include "engine/attention/policy.h"
#include "engine/engine_options.h"
#include "engine/eval/heat_map.h"
#include "engine/eval/perplexity.h"
#include "engine/eval/recall.h"
#include "engine/eval/retrieval.h"
#include "engine/model/transformer.h"
#include "kernels/create_backend.h"
#include "server/commands.h"
#include "server/flags.h"
#include "server/model_file.h"
#include "server/progress.h"

namespace winnow {
namespace {

constexpr FlagSet::Range kSparsityRange = {1, 1024};
/// More makes steps hardly faster, and their logits large.
constexpr int kStepRows = 256;

/// What all evaluations have in common.
struct EvalFlags {
  std::string model;
  std::string label_file;
  std::string policies = "dense,double-sparsity,window";
  std::string sparsity = "16";
  int budget_tokens = 0;
  std::string budgets = "by-head";
  SelectionOptions selection;
  std::string device = "cpu";
  int threads = 0;
  bool json = false;
};

void Declare(FlagSet& set, EvalFlags& flags) {
  set.Add("model", &flags.model, "FILE", "The GGUF file to evaluate. Required.");
  set.Add("label-file", &flags.label_file, "FILE",
          "What `winnow calibrate` found for this model; double-sparsity needs it.");
  set.Add(
      "policies", &flags.policies, "NAME,...",
      "What to compare: dense, double-sparsity, window, and true-scores, which selects by exact "
      "scores to tell what selecting costs apart from what labels cost.");
  set.Add("sparsity", &flags.sparsity, "N,...",
          "Attend to one token in N. Several are compared in turn by every policy but dense.");
  set.Add(
      "budget-tokens", &flags.budget_tokens, "TOKENS",
      "Instead of --sparsity: attend to so many tokens, whatever the context. 0: use --sparsity.",
      {0, 1 << 24});
  set.AddChoice("budgets", &flags.budgets, {"by-head", "uniform"},
                "Spread the budget over the heads as the label file says, or evenly.");
  set.Add("dense-layers", &flags.selection.dense_layers, "N", "First layers that stay dense.",
          {0, 1024});
  set.Add("sinks", &flags.selection.sinks, "TOKENS", "First tokens, always attended to.",
          {0, 65536});
  set.Add("window", &flags.selection.window, "TOKENS", "Most recent tokens, always attended to.",
          {1, 65536});
  set.AddChoice("device", &flags.device, {"cpu", "cuda"}, "Where to compute.");
  set.Add("threads", &flags.threads, "N", "Threads that compute; 0 is one per core.", {0, 1024});
  set.Add("json", &flags.json, "", "Print one JSON object.");
}

/// The policies to compare. INVALID_ARGUMENT names the flag at fault.
absl::StatusOr<std::vector<AttentionPolicy>> ReadPolicies(const EvalFlags& flags) {
  std::vector<double> sparsities;
  const std::vector<std::string> numbers = absl::StrSplit(flags.sparsity, ',');
  for (const std::string& number : numbers) {
    double sparsity = 0;
    if (!absl::SimpleAtod(number, &sparsity) || !(sparsity >= kSparsityRange.min) ||
        !(sparsity <= kSparsityRange.max)) {
      return absl::InvalidArgumentError(absl::StrCat("--sparsity must be numbers from ",
                                                     kSparsityRange.min, " to ", kSparsityRange.max,
                                                     ", separated by commas, is ", flags.sparsity));
    }
    sparsities.push_back(sparsity);
  }
  // A number of tokens replaces all of them.
  if (flags.budget_tokens > 0) sparsities.resize(1);
  std::vector<AttentionPolicy> policies;
  const std::vector<std::string> names = absl::StrSplit(flags.policies, ',');
  for (const std::string& name : names) {
    const absl::StatusOr<SelectionKind> kind = ParsePolicyName(name);
    if (!kind.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--policies: ", std::string(kind.status().message())));
    }
    if (*kind == SelectionKind::kAll) {
      policies.push_back({.kind = *kind, .sparsity = 1});
      continue;
    }
    if (*kind == SelectionKind::kLabels && flags.label_file.empty()) {
      return absl::InvalidArgumentError(
          "policy double-sparsity needs a --label-file, which `winnow calibrate` makes");
    }
    for (const double sparsity : sparsities) {
      policies.push_back({*kind, sparsity, flags.budget_tokens});
    }
  }
  return policies;
}

/// A model that is evaluated, with a KV pool for one sequence.
struct EvalModel {
  ModelFile file;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Transformer> transformer;
};

absl::StatusOr<ModelFile> OpenModel(const EvalFlags& flags) {
  if (flags.model.empty()) return absl::InvalidArgumentError("--model is missing");
  return ModelFile::Open(flags.model);
}

/// Loads the weights, with a pool of `tokens`.
absl::StatusOr<EvalModel> LoadModel(const EvalFlags& flags, ModelFile file, int tokens) {
  EvalModel model;
  model.file = std::move(file);
  if (tokens > model.file.config.max_context) {
    return absl::InvalidArgumentError(
        absl::StrCat("a context of ", tokens, " tokens is beyond the ",
                     model.file.config.max_context, " that the model was trained for"));
  }
  std::optional<LabelFile> labels;
  if (!flags.label_file.empty()) {
    absl::StatusOr<LabelFile> read =
        LabelFile::Read(flags.label_file, *model.file.gguf, model.file.config);
    if (!read.ok()) return read.status();
    labels = *std::move(read);
    if (labels->calibrated_context < tokens) {
      std::fprintf(stderr, "warning: labels were calibrated up to position %d, the context is %d\n",
                   labels->calibrated_context, tokens);
    }
  }
  absl::StatusOr<std::unique_ptr<Backend>> backend = CreateBackend({flags.device, flags.threads});
  if (!backend.ok()) return backend.status();
  model.backend = *std::move(backend);
  const int block_tokens = EngineOptions().block_tokens;
  KvOptions kv = {.blocks = (tokens + block_tokens - 1) / block_tokens,
                  .block_tokens = block_tokens,
                  .max_step_tokens = kStepRows,
                  .selection = flags.selection,
                  .labels = labels ? &*labels : nullptr};
  kv.selection.uniform_budgets = flags.budgets == "uniform";
  absl::StatusOr<std::unique_ptr<Transformer>> transformer =
      Transformer::Load(*model.file.gguf, model.file.config, *model.backend, kv);
  if (!transformer.ok()) return transformer.status();
  model.transformer = *std::move(transformer);
  return model;
}

absl::StatusOr<std::string> ReadText(const std::string& path, const char* flag) {
  if (path.empty()) return absl::InvalidArgumentError(absl::StrCat(flag, " is missing"));
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file) return absl::NotFoundError(absl::StrCat("can't read ", flag, " ", path));
  return text;
}

/// The text with lines that end in LF, whichever system wrote it: what models were trained on.
std::string WithUnixLineEnds(std::string text) {
  absl::StrReplaceAll({{"\r\n", "\n"}}, &text);
  return text;
}

/// A text's tokens, at least `windows` * `context` of them.
absl::StatusOr<std::vector<int32_t>> ReadTokens(const std::string& path, const ModelFile& file,
                                                int windows, int context) {
  absl::StatusOr<std::string> text = ReadText(path, "--text");
  if (!text.ok()) return text.status();
  std::vector<int32_t> tokens = file.tokenizer->Encode(WithUnixLineEnds(*std::move(text)),
                                                       /*parse_special=*/false, /*add_bos=*/true);
  if (static_cast<int64_t>(tokens.size()) < int64_t{windows} * context) {
    return absl::InvalidArgumentError(absl::StrCat("--text has ", tokens.size(), " tokens, ",
                                                   windows, " windows of --context ", context,
                                                   " need ", int64_t{windows} * context));
  }
  return tokens;
}

/// An observer that moves a bar of `total` rows.
RowsObserver Advance(ProgressBar& bar, int64_t total) {
  return [&bar, total, done = int64_t{0}](int rows) mutable {
    done += rows;
    bar.Update(static_cast<double>(done) / static_cast<double>(total));
  };
}

/// How a policy is called in tables: "double-sparsity 1/16", "window, 128 tokens".
std::string Title(const AttentionPolicy& policy) {
  std::string title(PolicyName(policy.kind));
  if (policy.kind == SelectionKind::kAll) return title;
  if (policy.budget_tokens > 0) return absl::StrCat(title, ", ", policy.budget_tokens, " tokens");
  return absl::StrCat(title, " 1/", policy.sparsity);
}

/// What every result tells of its policy: the label width if it selects by labels.
void AddPolicy(const AttentionPolicy& policy, const EvalModel& model,
               nlohmann::ordered_json* json) {
  if (policy.budget_tokens > 0) {
    (*json)["budget_tokens"] = policy.budget_tokens;
  } else {
    (*json)["sparsity"] = policy.sparsity;
  }
  if (policy.kind == SelectionKind::kLabels) {
    (*json)["label_width"] = model.transformer->label_cache().width;
  }
}

// winnow eval perplexity

struct PerplexityFlags {
  EvalFlags common;
  std::string text;
  PerplexityOptions options = {.step_rows = kStepRows};
};

/// Perplexity of the dense policy, none if it was not evaluated.
std::optional<double> DensePerplexity(const std::vector<PerplexityResult>& results) {
  for (const PerplexityResult& result : results) {
    if (result.policy.kind == SelectionKind::kAll) return result.perplexity;
  }
  return std::nullopt;
}

double BudgetFraction(const KvTraffic& traffic) {
  return static_cast<double>(traffic.attended_tokens) / static_cast<double>(traffic.context_tokens);
}

void PrintPerplexityJson(const std::vector<PerplexityResult>& results, const EvalModel& model,
                         const PerplexityOptions& options) {
  const std::optional<double> dense = DensePerplexity(results);
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const PerplexityResult& result : results) {
    nlohmann::ordered_json json = {{"policy", std::string(PolicyName(result.policy.kind))},
                                   {"perplexity", result.perplexity},
                                   {"mean_budget_fraction", BudgetFraction(result.traffic)},
                                   {"recall", result.recall},
                                   {"kv_bytes_read", result.traffic.bytes()},
                                   {"kv_bytes_dense", result.traffic.equivalent_bytes}};
    AddPolicy(result.policy, model, &json);
    if (dense) json["perplexity_increase_percent"] = 100 * (result.perplexity / *dense - 1);
    json["scored_tokens"] = result.tokens;
    list.push_back(std::move(json));
  }
  const nlohmann::ordered_json json = {
      {"results", list}, {"context", options.context}, {"windows", options.windows}};
  std::puts(json.dump().c_str());
}

void PrintPerplexityTable(const std::vector<PerplexityResult>& results) {
  const std::optional<double> dense = DensePerplexity(results);
  std::printf("%-24s %10s %9s %8s %8s %14s %8s\n", "policy", "perplexity", "vs dense", "budget",
              "recall", "KV read", "of dense");
  for (const PerplexityResult& result : results) {
    const KvTraffic& traffic = result.traffic;
    std::printf(
        "%-24s %10.3f %9s %6.2f %% %8.4f %11.3f MB %6.2f %%\n", Title(result.policy).c_str(),
        result.perplexity,
        dense ? absl::StrFormat("%+.2f %%", 100 * (result.perplexity / *dense - 1)).c_str() : "",
        100 * BudgetFraction(traffic), result.recall,
        static_cast<double>(traffic.bytes()) / static_cast<double>(result.tokens) / 1e6,
        100.0 * static_cast<double>(traffic.bytes()) /
            static_cast<double>(traffic.equivalent_bytes));
  }
  std::printf("%lld tokens scored by each policy; KV read is per token, labels included\n",
              static_cast<long long>(results[0].tokens));
}

absl::Status EvaluatePerplexity(const PerplexityFlags& flags) {
  PerplexityOptions options = flags.options;
  const absl::StatusOr<std::vector<AttentionPolicy>> policies = ReadPolicies(flags.common);
  if (!policies.ok()) return policies.status();
  absl::StatusOr<ModelFile> file = OpenModel(flags.common);
  if (!file.ok()) return file.status();
  const absl::StatusOr<std::vector<int32_t>> tokens =
      ReadTokens(flags.text, *file, options.windows, options.context);
  if (!tokens.ok()) return tokens.status();
  const absl::StatusOr<EvalModel> model =
      LoadModel(flags.common, *std::move(file), options.context);
  if (!model.ok()) return model.status();
  options.block_tokens = model->transformer->kv_cache().block_tokens;

  absl::StatusOr<std::vector<PerplexityResult>> results;
  {
    ProgressBar bar("scoring");
    const int64_t rows = PerplexityRows(options, static_cast<int>(policies->size()));
    results = EvalPerplexity(*model->transformer, *tokens, *policies, options, Advance(bar, rows));
  }
  if (!results.ok()) return results.status();
  if (flags.common.json) {
    PrintPerplexityJson(*results, *model, options);
  } else {
    PrintPerplexityTable(*results);
  }
  return absl::OkStatus();
}

int RunPerplexity(std::span<const std::string> arguments) {
  PerplexityFlags flags;
  FlagSet set(
      "winnow eval perplexity",
      "Scores the second half of each window of a text token by token through every policy; "
      "the first half is computed densely, as a prompt.");
  Declare(set, flags.common);
  set.Add("text", &flags.text, "FILE", "The text to score. Required.");
  set.Add("context", &flags.options.context, "TOKENS", "Tokens of a window.", {2, 1 << 24});
  set.Add("windows", &flags.options.windows, "K", "Consecutive windows from the text's start.",
          {1, 1 << 20});
  if (std::optional<int> exit_code = ParseOrExitCode(set, arguments)) return *exit_code;
  if (absl::Status status = EvaluatePerplexity(flags); !status.ok()) return Fail(set, status);
  return 0;
}

// winnow eval retrieval

struct RetrievalFlags {
  EvalFlags common;
  std::string cases;
  int limit = 0;
  std::string ask = "completion";
  bool answers = false;
  RetrievalOptions options = {.step_rows = kStepRows};
};

/// What the model gets of a case. `line` is the one asked for, or empty. INVALID_ARGUMENT when the
/// model has no chat template.
absl::StatusOr<std::vector<int32_t>> EncodeCase(const std::string& prompt, const std::string& line,
                                                int64_t number, const RetrievalFlags& flags,
                                                const ModelFile& file) {
  const Tokenizer& tokenizer = *file.tokenizer;
  if (flags.ask != "chat") {
    const bool completes = flags.ask == "completion" && !line.empty();
    const std::string start = line.substr(0, line.find(absl::StrCat(number)));
    return tokenizer.Encode(completes ? absl::StrCat(prompt, "\n\n", start) : prompt,
                            /*parse_special=*/false, /*add_bos=*/true);
  }
  if (!file.chat) {
    return absl::InvalidArgumentError("--ask chat: the model has no chat template that is known");
  }
  const absl::StatusOr<std::string> rendered =
      file.chat->Render({{.role = "user", .content = prompt}});
  if (!rendered.ok()) return rendered.status();
  return tokenizer.Encode(*rendered, /*parse_special=*/true, file.chat->adds_bos());
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
  options.block_tokens = model->transformer->kv_cache().block_tokens;

  absl::StatusOr<std::vector<RetrievalResult>> results;
  {
    ProgressBar bar("answering");
    const int64_t rows = RetrievalRows(*cases, options, static_cast<int>(policies->size()));
    results = EvalRetrieval(*model->transformer, *model->file.tokenizer, *cases, *policies, options,
                            Advance(bar, rows));
  }
  if (!results.ok()) return results.status();
  if (flags.common.json) {
    PrintRetrievalJson(*results, *model, flags.answers);
  } else {
    PrintRetrievalTable(*results, *cases, flags.answers);
  }
  return absl::OkStatus();
}

int RunRetrieval(std::span<const std::string> arguments) {
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

// winnow eval recall

struct RecallFlags {
  EvalFlags common;
  std::string text;
  std::string output;
  RecallEvalOptions options = {.step_rows = kStepRows};
};

bool EndsWith(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// Writes the heat map as --output says: SVG by itself or in a page.
absl::Status WriteHeatMap(const RecallFlags& flags, const std::vector<RecallResult>& results,
                          const EvalModel& model) {
  std::vector<HeatMapPanel> panels;
  for (const RecallResult& result : results) panels.push_back({Title(result.policy), &result});
  const std::string caption = absl::StrCat(
      model.file.config.name, ", context ", flags.options.context,
      ", windows: ", flags.options.windows, ", rows sampled in each: ", flags.options.sampled_rows);
  std::string image = RecallHeatMapSvg(caption, panels);
  if (EndsWith(flags.output, ".html")) image = HtmlPage("Recall by layer and KV head", image);
  std::ofstream file(flags.output, std::ios::binary);
  file << image;
  file.close();
  if (!file) {
    return absl::UnavailableError(absl::StrCat("can't write --output ", flags.output));
  }
  return absl::OkStatus();
}

void PrintRecallJson(const std::vector<RecallResult>& results, const EvalModel& model,
                     const RecallEvalOptions& options) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const RecallResult& result : results) {
    nlohmann::ordered_json layers = nlohmann::ordered_json::array();
    for (int l = 0; l < result.layers(); ++l) {
      layers.push_back(std::vector<double>(result.layer(l).begin(), result.layer(l).end()));
    }
    nlohmann::ordered_json json = {{"policy", std::string(PolicyName(result.policy.kind))},
                                   {"recall", MeanRecall(result.recall)},
                                   {"mean_budget_fraction", BudgetFraction(result.traffic)}};
    AddPolicy(result.policy, model, &json);
    json["recall_by_layer_and_kv_head"] = std::move(layers);
    list.push_back(std::move(json));
  }
  const nlohmann::ordered_json json = {{"results", list},
                                       {"context", options.context},
                                       {"windows", options.windows},
                                       {"sampled_rows", options.sampled_rows}};
  std::puts(json.dump().c_str());
}

void PrintRecallTable(const std::vector<RecallResult>& results) {
  constexpr int kMinWidth = 16;
  std::vector<int> widths;
  std::printf("recall, mean and lowest KV head\nlayer");
  for (const RecallResult& result : results) {
    const std::string title = Title(result.policy);
    widths.push_back(std::max(kMinWidth, static_cast<int>(title.size())));
    std::printf("  %*s", widths.back(), title.c_str());
  }
  const auto print_row = [&](const std::string& name, const auto& recalls_of) {
    std::printf("\n%5s", name.c_str());
    for (size_t p = 0; p < results.size(); ++p) {
      const std::span<const double> recalls = recalls_of(results[p]);
      std::printf("  %*.4f  %.4f", widths[p] - 8, MeanRecall(recalls),
                  *std::ranges::min_element(recalls));
    }
  };
  for (int l = 0; l < results[0].layers(); ++l) {
    print_row(absl::StrCat(l), [l](const RecallResult& result) { return result.layer(l); });
  }
  print_row("all", [](const RecallResult& result) { return std::span(result.recall); });
  std::printf("\n");
}

absl::Status EvaluateRecall(const RecallFlags& flags) {
  RecallEvalOptions options = flags.options;
  if (!flags.output.empty() && !EndsWith(flags.output, ".html") &&
      !EndsWith(flags.output, ".svg")) {
    return absl::InvalidArgumentError(
        absl::StrCat("--output must end in .html or .svg, is ", flags.output));
  }
  const absl::StatusOr<std::vector<AttentionPolicy>> policies = ReadPolicies(flags.common);
  if (!policies.ok()) return policies.status();
  absl::StatusOr<ModelFile> file = OpenModel(flags.common);
  if (!file.ok()) return file.status();
  const absl::StatusOr<std::vector<int32_t>> tokens =
      ReadTokens(flags.text, *file, options.windows, options.context);
  if (!tokens.ok()) return tokens.status();
  const absl::StatusOr<EvalModel> model =
      LoadModel(flags.common, *std::move(file), options.context);
  if (!model.ok()) return model.status();
  options.block_tokens = model->transformer->kv_cache().block_tokens;

  absl::StatusOr<std::vector<RecallResult>> results;
  {
    ProgressBar bar("measuring");
    const int64_t rows = RecallRows(options, static_cast<int>(policies->size()));
    results = EvalRecall(*model->transformer, *tokens, *policies, options, Advance(bar, rows));
  }
  if (!results.ok()) return results.status();
  if (!flags.output.empty()) {
    if (absl::Status status = WriteHeatMap(flags, *results, *model); !status.ok()) return status;
  }
  if (flags.common.json) {
    PrintRecallJson(*results, *model, options);
  } else {
    PrintRecallTable(*results);
  }
  return absl::OkStatus();
}

int RunRecall(std::span<const std::string> arguments) {
  RecallFlags flags;
  FlagSet set("winnow eval recall",
              "Measures, for every layer and KV head, how much of the true softmax mass the tokens "
              "hold that each policy selects in the second half of windows of a text.");
  flags.common.policies = "double-sparsity,window";
  Declare(set, flags.common);
  set.Add("text", &flags.text, "FILE", "The text to attend to. Required.");
  set.Add("context", &flags.options.context, "TOKENS", "Tokens of a window.", {2, 1 << 24});
  set.Add("windows", &flags.options.windows, "K", "Consecutive windows from the text's start.",
          {1, 1 << 20});
  set.Add("sampled-rows", &flags.options.sampled_rows, "N",
          "Rows of a window at which recall is measured, evenly spread over its second half.",
          {1, 1 << 20});
  set.Add("output", &flags.output, "FILE", "Draw a heat map: FILE.html or FILE.svg.");
  if (std::optional<int> exit_code = ParseOrExitCode(set, arguments)) return *exit_code;
  if (absl::Status status = EvaluateRecall(flags); !status.ok()) return Fail(set, status);
  return 0;
}

}  // namespace

int RunEval(std::span<const std::string> arguments) {
  constexpr const char* kUsage =
      "Measures what an attention policy costs in accuracy.\n\n"
      "Usage: winnow eval perplexity|retrieval|recall [flags]\n\n"
      "  perplexity  How well a text is predicted\n"
      "  retrieval   How often a number in a long prompt is found again\n"
      "  recall      How much of the softmax selections hold, head by head\n\n"
      "`winnow eval perplexity --help` shows the flags.\n";
  const std::string name = arguments.empty() ? "" : arguments[0];
  if (name == "perplexity") return RunPerplexity(arguments.subspan(1));
  if (name == "retrieval") return RunRetrieval(arguments.subspan(1));
  if (name == "recall") return RunRecall(arguments.subspan(1));
  const bool help = name == "--help" || name == "-h";
  std::fputs(kUsage, help ? stdout : stderr);
  return help ? 0 : 2;
}

}  // namespace winnow

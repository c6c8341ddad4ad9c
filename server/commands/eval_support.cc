#include "server/commands/eval_support.h"

#include <cstdio>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"

namespace winnow {
namespace {

constexpr FlagSet::Range kSparsityRange = {1, 1024};

// The text with lines that end in LF, whichever system wrote it: what models were trained on.
std::string WithUnixLineEnds(std::string text) {
  absl::StrReplaceAll({{"\r\n", "\n"}}, &text);
  return text;
}

}  // namespace
void Declare(FlagSet& set, EvalFlags& flags) {
  set.Add("model", &flags.model, "MODEL",
          "The GGUF file or Hugging Face folder to evaluate. Required.");
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
  set.AddChoice("tail", &flags.tail, {"by-head", "off"},
                "Estimate what double-sparsity does not choose, and count it as the label file "
                "says, or leave it out.");
  set.AddChoice("device", &flags.device, {"cpu", "cuda"}, "Where to compute.");
  set.Add("threads", &flags.threads, "N", "Threads that compute; 0 is one per core.", {0, 1024});
  set.Add(
      "exact-products", &flags.exact_products, "",
      "Multiply weights with activations in fp32, several times slower: then policies differ by "
      "what they read, and not also by what rounding makes of it. The CPU alone can.");
  set.Add("json", &flags.json, "", "Print one JSON object.");
}

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

SelectionOptions ReadSelection(const EvalFlags& flags) {
  SelectionOptions selection = flags.selection;
  selection.uniform_budgets = flags.budgets == "uniform";
  selection.tail = flags.tail == "by-head";
  return selection;
}

absl::StatusOr<ModelFile> OpenModel(const EvalFlags& flags) {
  if (flags.model.empty()) return absl::InvalidArgumentError("--model is missing");
  return ModelFile::Open(flags.model);
}

absl::StatusOr<EvalModel> LoadModel(const EvalFlags& flags, ModelFile file, int tokens) {
  EvalModel model;
  model.file = std::move(file);
  if (tokens > model.file.config().max_context) {
    return absl::InvalidArgumentError(
        absl::StrCat("a context of ", tokens, " tokens is beyond the ",
                     model.file.config().max_context, " that the model was trained for"));
  }
  LoadOptions options = {.backend = {flags.device, flags.threads, flags.exact_products},
                         .max_step_tokens = kEvalStepRows,
                         .max_sequences = 1,
                         .selection = ReadSelection(flags),
                         .label_file = flags.label_file};
  options.kv_blocks = (tokens + options.block_tokens - 1) / options.block_tokens;
  absl::StatusOr<LoadedModel> loaded = LoadedModel::FromCheckpoint(*model.file.checkpoint, options);
  if (!loaded.ok()) return loaded.status();
  model.loaded = *std::move(loaded);
  if (model.loaded.calibrated_context < tokens) {
    std::fprintf(stderr, "warning: labels were calibrated up to position %d, the context is %d\n",
                 model.loaded.calibrated_context, tokens);
  }
  return model;
}

absl::StatusOr<std::string> ReadText(const std::string& path, const char* flag) {
  if (path.empty()) return absl::InvalidArgumentError(absl::StrCat(flag, " is missing"));
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file) return absl::NotFoundError(absl::StrCat("can't read ", flag, " ", path));
  return text;
}

absl::Status ReadJsonLines(
    const std::string& text, const char* flag,
    const std::function<absl::StatusOr<bool>(size_t number, const nlohmann::json& line)>& take) {
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  for (size_t i = 0; i < lines.size(); ++i) {
    if (absl::StripAsciiWhitespace(lines[i]).empty()) continue;
    const nlohmann::json line =
        nlohmann::json::parse(lines[i], nullptr, /*allow_exceptions=*/false);
    if (!line.is_object()) {
      return absl::InvalidArgumentError(absl::StrCat(flag, ": line ", i + 1, " is no JSON object"));
    }
    const absl::StatusOr<bool> goes_on = take(i + 1, line);
    if (!goes_on.ok()) return goes_on.status();
    if (!*goes_on) break;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> EncodePrompt(const std::string& prompt, bool as_chat,
                                                  const ModelFile& file) {
  if (!as_chat) {
    return file.text.tokenizer->Encode(prompt, /*parse_special=*/false, /*add_bos=*/true);
  }
  if (!file.chat.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--ask chat: ", file.chat.status().message()));
  }
  const Conversation conversation = {.messages = {{.role = "user", .content = prompt}}};
  const absl::StatusOr<std::vector<TextSegment>> rendered =
      file.chat->Render(conversation, absl::Now());
  if (!rendered.ok()) return rendered.status();
  return file.text.tokenizer->EncodeSegments(*rendered, /*add_bos=*/false);
}

absl::StatusOr<std::vector<int32_t>> ReadTokens(const std::string& path, const ModelFile& file,
                                                int windows, int context) {
  absl::StatusOr<std::string> text = ReadText(path, "--text");
  if (!text.ok()) return text.status();
  std::vector<int32_t> tokens =
      file.text.tokenizer->Encode(WithUnixLineEnds(*std::move(text)),
                                  /*parse_special=*/false, /*add_bos=*/true);
  if (static_cast<int64_t>(tokens.size()) < int64_t{windows} * context) {
    return absl::InvalidArgumentError(absl::StrCat("--text has ", tokens.size(), " tokens, ",
                                                   windows, " windows of --context ", context,
                                                   " need ", int64_t{windows} * context));
  }
  return tokens;
}

RowsObserver Advance(ProgressBar& bar, int64_t total) {
  return [&bar, total, done = int64_t{0}](int rows) mutable {
    done += rows;
    bar.Update(static_cast<double>(done) / static_cast<double>(total));
  };
}

std::string Title(const AttentionPolicy& policy) {
  std::string title(PolicyName(policy.kind));
  if (policy.kind == SelectionKind::kAll) return title;
  if (policy.budget_tokens > 0) return absl::StrCat(title, ", ", policy.budget_tokens, " tokens");
  return absl::StrCat(title, " 1/", policy.sparsity);
}

void AddPolicy(const AttentionPolicy& policy, const EvalModel& model,
               nlohmann::ordered_json* json) {
  if (policy.budget_tokens > 0) {
    (*json)["budget_tokens"] = policy.budget_tokens;
  } else {
    (*json)["sparsity"] = policy.sparsity;
  }
  if (policy.kind == SelectionKind::kLabels) {
    (*json)["label_width"] = model.loaded.pools->Layer(0).label_width;
  }
}

double BudgetFraction(const KvTraffic& traffic) {
  return static_cast<double>(traffic.attended_tokens) / static_cast<double>(traffic.context_tokens);
}

double ReadFraction(const KvTraffic& traffic) {
  return static_cast<double>(traffic.bytes()) / static_cast<double>(traffic.equivalent_bytes);
}

void AddTraffic(const KvTraffic& traffic, nlohmann::ordered_json* json) {
  (*json)["mean_budget_fraction"] = BudgetFraction(traffic);
  (*json)["kv_bytes_read"] = traffic.bytes();
  (*json)["kv_bytes_dense"] = traffic.equivalent_bytes;
}

void PrintJson(const nlohmann::ordered_json& json) {
  constexpr auto kReplace = nlohmann::ordered_json::error_handler_t::replace;
  std::puts(json.dump(-1, ' ', false, kReplace).c_str());
}

}  // namespace winnow

#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/attention/policy.h"
#include "engine/eval/sequence_runner.h"
#include "engine/model/transformer.h"
#include "server/commands/flags.h"
#include "server/commands/loaded_model.h"
#include "server/commands/model_file.h"
#include "server/commands/progress.h"

namespace winnow {

/// Rows of a step: more makes steps hardly faster, and their logits large.
inline constexpr int kEvalStepRows = 256;

/// What all evaluations have in common.
struct EvalFlags {
  std::string model;
  std::string label_file;
  std::string policies = "dense,double-sparsity,window";
  std::string sparsity = "16";
  int budget_tokens = 0;
  std::string budgets = "by-head";
  std::string tail = "by-head";
  SelectionOptions selection;
  std::string device = "cpu";
  int threads = 0;
  bool exact_products = false;
  bool json = false;
};

/// Adds the flags that `flags` holds.
void Declare(FlagSet& set, EvalFlags& flags);

/// The policies to compare. INVALID_ARGUMENT names the flag at fault.
absl::StatusOr<std::vector<AttentionPolicy>> ReadPolicies(const EvalFlags& flags);

/// How rows select, as the flags say.
SelectionOptions ReadSelection(const EvalFlags& flags);

/// A model that is evaluated, with a KV pool for one sequence.
struct EvalModel {
  ModelFile file;
  LoadedModel loaded;

  Transformer& transformer() const { return *loaded.transformer; }
};

/// Opens the file of --model. INVALID_ARGUMENT when the flag is missing.
absl::StatusOr<ModelFile> OpenModel(const EvalFlags& flags);

/// Loads the weights, with a pool of `tokens`. INVALID_ARGUMENT when the model was not trained for
/// so many; the errors of LoadedModel::FromCheckpoint.
absl::StatusOr<EvalModel> LoadModel(const EvalFlags& flags, ModelFile file, int tokens);

/// The bytes of the file that `flag` names. INVALID_ARGUMENT when the path is empty, NOT_FOUND when
/// it can't be read.
absl::StatusOr<std::string> ReadText(const std::string& path, const char* flag);

/// Calls `take` with the object of every line of JSON lines but empty ones, until it returns false;
/// `number` counts lines from 1. INVALID_ARGUMENT names `flag` and a line that is no JSON object.
absl::Status ReadJsonLines(
    const std::string& text, const char* flag,
    const std::function<absl::StatusOr<bool>(size_t number, const nlohmann::json& line)>& take);

/// A prompt as the model gets it: as a text to go on with, or as a user's message to a chat model.
/// INVALID_ARGUMENT when it has no chat template or can't render the prompt.
absl::StatusOr<std::vector<int32_t>> EncodePrompt(const std::string& prompt, bool as_chat,
                                                  const ModelFile& file);

/// The tokens of --text, at least `windows` * `context` of them; INVALID_ARGUMENT when there are
/// fewer.
absl::StatusOr<std::vector<int32_t>> ReadTokens(const std::string& path, const ModelFile& file,
                                                int windows, int context);

/// An observer that moves a bar of `total` rows.
RowsObserver Advance(ProgressBar& bar, int64_t total);

/// How a policy is called in tables: "double-sparsity 1/16", "window, 128 tokens".
std::string Title(const AttentionPolicy& policy);

/// Adds what every result tells of its policy: the label width if it selects by labels.
void AddPolicy(const AttentionPolicy& policy, const EvalModel& model, nlohmann::ordered_json* json);

/// Share of the context that was attended to, mean over heads.
double BudgetFraction(const KvTraffic& traffic);
/// Share of the bytes that dense attention would have read.
double ReadFraction(const KvTraffic& traffic);

/// Adds what every result of cases tells of its traffic.
void AddTraffic(const KvTraffic& traffic, nlohmann::ordered_json* json);

/// Prints the object on a line; bytes that are not UTF-8, as models write them, become U+FFFD.
void PrintJson(const nlohmann::ordered_json& json);

}  // namespace winnow

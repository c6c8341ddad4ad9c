#pragma once

#include <cstdint>
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
  SelectionOptions selection;
  std::string device = "cpu";
  int threads = 0;
  bool json = false;
};

/// Adds the flags that `flags` holds.
void Declare(FlagSet& set, EvalFlags& flags);

/// The policies to compare. INVALID_ARGUMENT names the flag at fault.
absl::StatusOr<std::vector<AttentionPolicy>> ReadPolicies(const EvalFlags& flags);

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

}  // namespace winnow

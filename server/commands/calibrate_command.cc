#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/calibration/calibration.h"
#include "engine/model/fingerprint.h"
#include "nlohmann/json.hpp"
#include "server/commands/commands.h"
#include "server/commands/flags.h"
#include "server/commands/loaded_model.h"
#include "server/commands/model_file.h"
#include "server/commands/progress.h"

namespace winnow {
namespace {

// Attention costs time and memory with the square of the window; contexts to be served that are
// longer ask for longer windows explicitly.
constexpr int kLongestDefaultWindow = 8192;

using Clock = std::chrono::steady_clock;

struct CalibrateFlags {
  std::string model;
  std::string text;
  std::string output;
  std::string basis = CalibrationOptions().basis;
  std::string ranking = CalibrationOptions().ranking;
  std::string budgets = "by-head";
  std::string import;
  std::vector<std::string> also;
  int label_width = CalibrationOptions().width;
  int window = 0;
  int windows = 4;
  double sparsity = CalibrationOptions().sparsity;
  std::string device = "cpu";
  int threads = 0;
  bool json = false;
};

// A label file to make from the statistics.
struct Job {
  std::string output;
  CalibrationOptions options;
};

void Declare(FlagSet& set, CalibrateFlags& flags) {
  set.Add("model", &flags.model, "MODEL",
          "The GGUF file or Hugging Face folder to calibrate. Required.");
  set.Add(
      "text", &flags.text, "FILE",
      "Text to calibrate on, UTF-8: prose of the kind that will be served, and at least as long "
      "as the windows together. Required.");
  set.Add("output", &flags.output, "FILE", "The label file to write. Required.");
  set.AddChoice("basis", &flags.basis, {"projection", "channels"},
                "How keys become labels: the best low-rank projection, or picked channels.");
  set.AddChoice("ranking", &flags.ranking, {"qk-centred", "qk", "q", "k"},
                "How channels are ranked. With --import it says which lists to read, `qk` if not "
                "given.");
  set.Add("label-width", &flags.label_width, "R",
          "Numbers of a label: a multiple of 8, at most 64 and the model's head size.",
          {1, kMaxLabelWidth});
  set.Add("window", &flags.window, "TOKENS",
          "Tokens of a window: the longest context to be served, since a basis fails at positions "
          "that calibration has not seen. 0 is the model's context, at most 8192.",
          {0, 1 << 20});
  set.Add("windows", &flags.windows, "K", "Windows, spread evenly over the text.", {1, 1024});
  set.AddChoice(
      "budgets", &flags.budgets, {"by-head", "uniform"},
      "Whether KV heads get budgets by what selection costs in them, and weights for what "
      "they do not select, or budgets that are all the same and no weights.");
  set.Add("sparsity", &flags.sparsity, "N",
          "The total of context / N that is spread over the heads.", {1, 1024});
  set.Add("import", &flags.import, "FILE",
          "A channel file of the Double Sparsity project to take the channels from, instead of "
          "ranking them; implies --basis channels.");
  set.Add("also", &flags.also, "SPEC=FILE",
          "Writes a further label file from the same run of the model. SPEC is BASIS:WIDTH or "
          "BASIS:WIDTH:SPARSITY, with BASIS one of projection, channels-qk-centred, channels-qk, "
          "channels-q, channels-k.");
  set.AddChoice("device", &flags.device, {"cpu", "cuda"}, "Where to run the model.");
  set.Add("threads", &flags.threads, "N", "Threads that compute; 0 is one per core.", {0, 1024});
  set.Add("json", &flags.json, "", "Print one JSON object.");
}

// Reads one --also. What the spec leaves open is as in `job`.
absl::StatusOr<Job> ParseAlso(const std::string& text, Job job) {
  const auto error = [&] {
    return absl::InvalidArgumentError(absl::StrCat(
        "--also takes BASIS:WIDTH=FILE or BASIS:WIDTH:SPARSITY=FILE, not \"", text, "\""));
  };
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals + 1 == text.size()) return error();
  job.output = text.substr(equals + 1);
  const std::vector<std::string> parts = absl::StrSplit(text.substr(0, equals), ':');
  if (parts.size() < 2 || parts.size() > 3) return error();
  if (!absl::SimpleAtoi(parts[1], &job.options.width)) return error();
  if (parts.size() == 3 && !absl::SimpleAtod(parts[2], &job.options.sparsity)) return error();
  constexpr const char* kChannels = "channels-";
  if (parts[0].rfind(kChannels, 0) == 0) {
    job.options.basis = "channels";
    job.options.ranking = parts[0].substr(std::char_traits<char>::length(kChannels));
  } else {
    job.options.basis = parts[0];
  }
  job.options.imported = nullptr;
  return job;
}

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    return absl::InvalidArgumentError("--text: " + path + " is not a regular file");
  }
  std::ifstream stream(path, std::ios::binary);
  if (!stream) return absl::InvalidArgumentError("--text: can't read " + path);
  return std::string(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
}

// Finds out before the model runs for minutes whether the output will be writable.
absl::Status CheckWritable(const std::string& path) {
  const std::filesystem::path folder = std::filesystem::absolute(path).parent_path();
  std::error_code error;
  const bool exists = std::filesystem::exists(path, error);
  if (std::filesystem::is_directory(path, error) ||
      access(exists ? path.c_str() : folder.c_str(), W_OK) != 0) {
    return absl::InvalidArgumentError("can't write " + path);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::vector<int32_t>>> MakeWindows(const CalibrateFlags& flags,
                                                              const ModelFile& model,
                                                              const std::string& text) {
  const int longest = model.config().max_context;
  const int window = flags.window > 0 ? flags.window : std::min(longest, kLongestDefaultWindow);
  if (window > longest) {
    return absl::InvalidArgumentError(
        absl::StrCat("--window ", window, " is longer than the model's context of ", longest));
  }
  const std::vector<int32_t> prefix =
      model.text.tokenizer->Encode("", /*parse_special=*/false, /*add_bos=*/true);
  const std::vector<int32_t> tokens =
      model.text.tokenizer->Encode(text, /*parse_special=*/false, /*add_bos=*/false);
  auto windows = CutWindows(tokens, prefix, flags.windows, window);
  if (!windows.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--text ", flags.text, ": ", std::string(windows.status().message())));
  }
  return windows;
}

absl::StatusOr<CalibrationStatistics> Gather(const ModelFile& model, const CalibrateFlags& flags,
                                             const std::vector<std::vector<int32_t>>& windows) {
  const auto window = static_cast<int>(windows[0].size());
  LoadOptions load = {.backend = {flags.device, flags.threads}, .max_step_tokens = window};
  load.kv_blocks = (window + load.block_tokens - 1) / load.block_tokens;
  const absl::StatusOr<LoadedModel> loaded = LoadedModel::FromCheckpoint(*model.checkpoint, load);
  if (!loaded.ok()) return loaded.status();
  GatherOptions options;
  options.threads = flags.threads;
  if (flags.budgets == "uniform") options.measured_windows = 0;
  ProgressBar bar("running the model");
  return GatherStatistics(*loaded->transformer, *loaded->backend, *model.checkpoint, windows,
                          options, [&](double done) { bar.Update(done); });
}

nlohmann::ordered_json ToJson(const Job& job, const CalibrationResult& result) {
  return {{"output", job.output},
          {"basis", result.file.basis},
          {"ranking", result.file.ranking},
          {"label_width", result.file.width},
          {"budgets", job.options.budgets_by_head ? "by-head" : "uniform"},
          {"sparsity", job.options.sparsity},
          {"uniform_error", result.uniform_error},
          {"spread_error", result.spread_error},
          {"left_out_error", result.left_out_error}};
}

void Print(const Job& job, const CalibrationResult& result) {
  const std::string ranking =
      result.file.ranking.empty() ? "" : ", channels ranked by " + result.file.ranking;
  std::printf("%s: %s%s, %d numbers a label\n", job.output.c_str(), result.file.basis.c_str(),
              ranking.c_str(), result.file.width);
  if (!job.options.budgets_by_head) return;
  std::printf(
      "  error that sparsity 1/%g leaves in attention, of the residual stream, all layers: "
      "%.5f with uniform budgets, %.5f by head\n",
      job.options.sparsity, result.uniform_error, result.spread_error);
  if (result.file.tail_weights.empty()) return;
  std::printf("  %.5f by head were what is not chosen left out\n", result.left_out_error);
}

// Everything but the command line: makes all files.
absl::Status Calibrate(const CalibrateFlags& flags, std::vector<Job> jobs) {
  const Clock::time_point start = Clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  const absl::StatusOr<ModelFile> model = ModelFile::Open(flags.model);
  if (!model.ok()) return model.status();
  ChannelRanking imported;
  if (!flags.import.empty()) {
    absl::StatusOr<ChannelRanking> read =
        ImportChannelRanking(flags.import, model->config(), jobs[0].options.ranking);
    if (!read.ok()) return read.status();
    imported = *std::move(read);
    jobs[0].options.imported = &imported;
  }
  // Before the model runs for minutes.
  for (const Job& job : jobs) {
    if (absl::Status status = CheckCalibrationOptions(job.options, model->config().head_dim);
        !status.ok()) {
      return status;
    }
    if (absl::Status status = CheckWritable(job.output); !status.ok()) return status;
  }
  const absl::StatusOr<std::string> text = ReadText(flags.text);
  if (!text.ok()) return text.status();
  const auto windows = MakeWindows(flags, *model, *text);
  if (!windows.ok()) return windows.status();
  const absl::StatusOr<CalibrationStatistics> statistics = Gather(*model, flags, *windows);
  if (!statistics.ok()) return statistics.status();
  const double model_seconds = seconds();

  ContentHash hash;
  hash.Add(*text);
  nlohmann::ordered_json files = nlohmann::ordered_json::array();
  for (const Job& job : jobs) {
    absl::StatusOr<CalibrationResult> result;
    {
      ProgressBar bar("making " + job.output);
      result = MakeLabelFile(*statistics, job.options, [&](double done) { bar.Update(done); });
    }
    if (!result.ok()) return result.status();
    result->file.text_hash = hash.Hex();
    if (absl::Status status = result->file.Write(job.output); !status.ok()) return status;
    if (flags.json) {
      files.push_back(ToJson(job, *result));
    } else {
      Print(job, *result);
    }
  }
  const auto window = static_cast<int>((*windows)[0].size());
  if (flags.json) {
    const nlohmann::ordered_json json = {{"windows", flags.windows},
                                         {"window_tokens", window},
                                         {"model_seconds", model_seconds},
                                         {"total_seconds", seconds()},
                                         {"files", files}};
    std::puts(json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
  } else {
    std::printf("calibrated on %d windows of %d tokens in %.1f s, of which the model ran %.1f s\n",
                flags.windows, window, seconds(), model_seconds);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Job>> MakeJobs(const FlagSet& set, const CalibrateFlags& flags) {
  if (flags.model.empty()) return absl::InvalidArgumentError("--model is required");
  if (flags.text.empty()) return absl::InvalidArgumentError("--text is required");
  if (flags.output.empty()) return absl::InvalidArgumentError("--output is required");
  Job job;
  job.output = flags.output;
  job.options.basis = flags.basis;
  job.options.ranking = flags.ranking;
  job.options.width = flags.label_width;
  job.options.budgets_by_head = flags.budgets == "by-head";
  job.options.sparsity = flags.sparsity;
  job.options.threads = flags.threads;
  const Job defaults = job;
  if (!flags.import.empty()) {
    if (set.IsSet("basis") && flags.basis != "channels") {
      return absl::InvalidArgumentError("--import gives channels, so --basis must be channels");
    }
    if (!set.IsSet("ranking")) job.options.ranking = "qk";
    if (job.options.ranking == "qk-centred") {
      return absl::InvalidArgumentError("--import has the rankings qk, q and k, not qk-centred");
    }
    job.options.basis = "channels";
  }
  std::vector<Job> jobs = {job};
  for (const std::string& text : flags.also) {
    absl::StatusOr<Job> other = ParseAlso(text, defaults);
    if (!other.ok()) return other.status();
    jobs.push_back(*std::move(other));
  }
  return jobs;
}

}  // namespace

int RunCalibrate(std::span<const std::string> arguments) {
  CalibrateFlags flags;
  FlagSet set("winnow calibrate",
              "Finds how a model's keys become labels, and budgets, from a text; writes a label "
              "file.");
  Declare(set, flags);
  if (std::optional<int> exit_code = ParseOrExitCode(set, arguments)) return *exit_code;
  absl::StatusOr<std::vector<Job>> jobs = MakeJobs(set, flags);
  if (!jobs.ok()) return Fail(set, jobs.status());
  const absl::Status status = Calibrate(flags, *std::move(jobs));
  return status.ok() ? 0 : Fail(set, status);
}

}  // namespace winnow

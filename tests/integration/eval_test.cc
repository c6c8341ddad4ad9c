// `winnow eval` on the demo model, run as users run it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "tests/engine/model/gguf_writer.h"
#include "tests/integration/server_process.h"

namespace winnow {
namespace {

using ::testing::HasSubstr;

constexpr const char* kQuestions =
    R"({"question": "What is the capital of France?", "choices": ["Berlin", "Paris", "Rome"], "answer": 1})"
    "\n"
    R"({"question": "How many legs does a spider have?", "choices": ["Eight", "Purple", "Seldom"], "answer": "A"})"
    "\n"
    R"({"question": "Which animal barks?", "choices": ["The fish", "The stone", "The dog"], "answer": 2})"
    "\n";

constexpr const char* kLongTexts =
    R"({"context": "The old lighthouse stands on the island of Borkum. Its keeper is called Anna Petersen, and she has a dog.", "input": "What is the keeper of the lighthouse called?", "answers": ["Anna Petersen", "Anna"]})"
    "\n"
    R"({"context": "The train to Linz leaves at noon from platform seven.", "input": "From which platform does the train leave?", "answers": ["platform seven"]})"
    "\n";

/// A file that holds the text, under a name that ends in `ending`.
class TextFile {
 public:
  explicit TextFile(const std::string& text, const std::string& ending = "")
      : file_(std::as_bytes(std::span(text))), path_(file_.path() + ending) {
    if (!ending.empty()) std::filesystem::copy_file(file_.path(), path_);
  }
  ~TextFile() { std::filesystem::remove(path_); }

  const std::string& path() const { return path_; }

 private:
  TemporaryFile file_;
  std::string path_;
};

nlohmann::json RunEval(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "eval");
  arguments.insert(arguments.end(), {"--model", DemoModelPath(), "--json"});
  const CommandResult result = RunWinnow(arguments);
  EXPECT_EQ(result.exit_status, 0) << result.output;
  return nlohmann::json::parse(result.output, nullptr, /*allow_exceptions=*/false);
}

TEST(EvalChoiceTest, TheDemoModelKnowsTheAnswers) {
  const TextFile cases(kQuestions);
  const auto json =
      RunEval({"choice", "--cases", cases.path(), "--ask", "texts", "--answers", "--policies",
               "dense,window", "--sparsity", "1,8", "--sinks", "1", "--window", "1"});
  ASSERT_EQ(json["results"].size(), 3u) << json;
  const auto& dense = json["results"][0];
  EXPECT_EQ(dense["policy"], "dense");
  EXPECT_EQ(dense["total"], 3);
  EXPECT_EQ(dense["correct_by_length"], 3);
  EXPECT_EQ(dense["chosen"].size(), 3u);
  // One token in one is all of them.
  const auto& whole = json["results"][1];
  EXPECT_EQ(whole["policy"], "window");
  EXPECT_EQ(whole["log_likelihoods"], dense["log_likelihoods"]);
  EXPECT_EQ(whole["mean_budget_fraction"], 1);
  EXPECT_LT(json["results"][2]["mean_budget_fraction"], 1);
  EXPECT_LT(json["results"][2]["kv_bytes_read"], json["results"][2]["kv_bytes_dense"]);
}

TEST(EvalChoiceTest, ReadsMmluFilesWithShots) {
  const TextFile cases(
      "\"Which is a colour, of these?\",blue,seven,B\nWhich is a number?,blue,seven,B\n", ".csv");
  const TextFile shots("Which is a fish?,trout,oak,A\nWhich is a tree?,trout,oak,B\n", ".csv");
  const auto json = RunEval({"choice", "--cases", cases.path(), "--shots-file", shots.path(),
                             "--limit", "1", "--policies", "dense"});
  ASSERT_EQ(json["results"].size(), 1u) << json;
  EXPECT_EQ(json["results"][0]["total"], 1);
  EXPECT_FALSE(json["results"][0].contains("correct_by_length"));
}

TEST(EvalGenerateTest, TheDemoModelFindsAnswersInTexts) {
  const TextFile cases(kLongTexts);
  const auto json = RunEval({"generate", "--cases", cases.path(), "--ask", "chat", "--max-tokens",
                             "24", "--answers", "--policies", "dense,window", "--sparsity", "1"});
  ASSERT_EQ(json["results"].size(), 2u) << json;
  const auto& dense = json["results"][0];
  EXPECT_THAT(dense["answers"][0].get<std::string>(), HasSubstr("Anna"));
  EXPECT_THAT(dense["answers"][1].get<std::string>(), HasSubstr("seven"));
  EXPECT_GT(dense["f1"], 0.2);
  EXPECT_GT(dense["rouge_l"], 0);
  EXPECT_EQ(json["results"][1]["answers"], dense["answers"]);
}

TEST(EvalGenerateTest, LongPromptsLoseTheirMiddle) {
  std::string filler;
  for (int i = 0; i < 400; ++i) filler += "The sea is calm today. ";
  const TextFile cases("{\"context\": \"" + filler +
                       "\", \"input\": \"Is it?\", \"answers\": [\"yes\"]}");
  const auto json = RunEval({"generate", "--cases", cases.path(), "--context", "200",
                             "--max-tokens", "2", "--policies", "dense"});
  ASSERT_EQ(json["results"].size(), 1u) << json;
  EXPECT_EQ(json["results"][0]["total"], 1);
}

TEST(EvalTest, RefusesBadCasesWithOneLine) {
  const TextFile no_json("{\"question\": ");
  const TextFile no_choices("{\"question\": \"q\", \"choices\": [], \"answer\": 0}");
  const TextFile no_answers("{\"context\": \"c\", \"input\": \"i\"}");
  const TextFile no_letter("q,a,b,X\n", ".csv");
  const TextFile empty("\n");
  const TextFile no_place("{context}");
  const TextFile good(kLongTexts);
  const struct {
    std::vector<std::string> arguments;
    const char* has;
  } cases[] = {
      {{"choice"}, "--cases is missing"},
      {{"choice", "--cases", no_json.path()}, "--cases: line 1"},
      {{"choice", "--cases", no_choices.path()}, "--cases: line 1"},
      {{"choice", "--cases", no_letter.path()}, "--cases: record 1"},
      {{"choice", "--cases", empty.path()}, "--cases has no questions"},
      {{"choice", "--cases", "/nowhere/cases"}, "/nowhere/cases"},
      {{"generate", "--cases", no_json.path()}, "--cases: line 1"},
      {{"generate", "--cases", no_answers.path()}, "--cases: line 1"},
      {{"generate", "--cases", empty.path()}, "--cases has no cases"},
      {{"generate", "--cases", good.path(), "--context", "64"}, "--max-tokens 64"},
      {{"generate", "--cases", good.path(), "--template-file", no_place.path()}, "{input}"},
  };
  for (const auto& test : cases) {
    SCOPED_TRACE(test.has);
    std::vector<std::string> arguments = {"eval"};
    arguments.insert(arguments.end(), test.arguments.begin(), test.arguments.end());
    arguments.insert(arguments.end(), {"--model", DemoModelPath(), "--policies", "dense"});
    const CommandResult result = RunWinnow(arguments);
    EXPECT_EQ(result.exit_status, 1);
    EXPECT_EQ(std::count(result.output.begin(), result.output.end(), '\n'), 1) << result.output;
    EXPECT_THAT(result.output, HasSubstr(test.has));
  }
}

TEST(EvalPerplexityTest, EstimatingWhatIsNotChosenComesCloserToDense) {
  const auto run = [](const std::string& tail, const std::string& context) {
    const auto json = RunEval({"perplexity", "--text", "docs/architecture.md", "--context", context,
                               "--policies", "dense,double-sparsity", "--sparsity", "8",
                               "--label-file", "models/smollm2-135m-instruct.labels-r32.json",
                               "--tail", tail, "--exact-products"});
    return json["results"][1];
  };
  const auto with = run("by-head", "1024");
  const auto without = run("off", "1024");
  EXPECT_LT(with["divergence"].get<double>(), 0.5 * without["divergence"].get<double>());
  EXPECT_GT(with["top1_agreement"].get<double>(), without["top1_agreement"].get<double>());
  EXPECT_GT(with["kv_bytes_read"].get<int64_t>(), without["kv_bytes_read"].get<int64_t>());
  EXPECT_NEAR(with["estimated"].get<double>(), 1 - with["recall"].get<double>(), 0.05);
  EXPECT_EQ(without["estimated"], 0);
  // A budget of less than 64 tokens: nothing is estimated.
  EXPECT_EQ(run("by-head", "256"), run("off", "256"));
}

std::vector<std::string> Locality(const std::vector<std::string>& flags) {
  std::vector<std::string> arguments = {"locality", "--text", "docs/architecture.md",
                                        "--label-file", "models/smollm2-135m-instruct.labels.json"};
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  return arguments;
}

TEST(EvalLocalityTest, TellsWhatCachesAndPredictionsHaveOfEveryHead) {
  const auto json = RunEval(
      Locality({"--context", "1024", "--steps", "48", "--warm-up", "16", "--sparsity", "8"}));
  ASSERT_EQ(json["layers"].size(), 30u) << json;
  for (const auto& layer : json["layers"]) EXPECT_EQ(layer["kv_heads"].size(), 3u);
  EXPECT_EQ(json["age_ends"], (std::vector<int>{1, 2, 4, 8, 16, 32, 64}));
  const auto& total = json["total"];
  // A budget of 1 / 8 of the context, less 4 sinks and a window of 16.
  EXPECT_GT(total["rows_per_step"], 960.0 / 8 - 20);
  EXPECT_LT(total["rows_per_step"], 1024.0 / 8 - 20 + 1);
  const double overlap = total["overlap"];
  EXPECT_GT(overlap, 0.5);
  EXPECT_EQ(total["ages"][0], overlap);
  const std::vector<double> lru = total["lru_hits"];
  EXPECT_GE(lru[0], overlap);
  EXPECT_TRUE(std::ranges::is_sorted(lru));
  EXPECT_GE(total["best_hits"], lru[2]);
  EXPECT_LT(total["best_hits"], 1);
  double ages = total["never"];
  for (const double share : total["ages"]) ages += share;
  EXPECT_NEAR(ages, 1, 1e-9);
  EXPECT_FALSE(json["layers"][0].contains("own_matrix_recall"));
  for (const char* way : {"own_matrix_recall", "fitted_map_recall"}) {
    const std::vector<double> recall = total[way];
    EXPECT_GT(recall[0], 0.7);
    EXPECT_TRUE(std::ranges::is_sorted(recall));
    EXPECT_LE(recall[2], 1);
    // What the first layer adds is not known before it, but can be fitted.
    EXPECT_LT(json["layers"][1]["own_matrix_recall"][0], json["layers"][1][way][1]);
  }
}

TEST(EvalLocalityTest, RefusesWhatItCannotMeasureWithOneLine) {
  const struct {
    std::vector<std::string> flags;
    const char* has;
  } cases[] = {
      {{"--context", "384"}, "--context must be more than --steps 320 and --warm-up 64"},
      {{"--policies", "window"}, "--policies must be double-sparsity"},
      {{"--sparsity", "8,16"}, "--policies must be double-sparsity, at one --sparsity"},
      {{"--context", "64", "--steps", "8", "--warm-up", "8"}, "nothing is selected"},
      {{"--text", "/nowhere/text"}, "/nowhere/text"},
  };
  for (const auto& test : cases) {
    SCOPED_TRACE(test.has);
    std::vector<std::string> arguments = Locality(test.flags);
    arguments.insert(arguments.begin(), "eval");
    arguments.insert(arguments.end(), {"--model", DemoModelPath()});
    const CommandResult result = RunWinnow(arguments);
    EXPECT_EQ(result.exit_status, 1);
    EXPECT_EQ(std::count(result.output.begin(), result.output.end(), '\n'), 1) << result.output;
    EXPECT_THAT(result.output, HasSubstr(test.has));
  }
}

}  // namespace
}  // namespace winnow

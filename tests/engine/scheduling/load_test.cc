#include "engine/scheduling/load.h"

#include <gtest/gtest.h>

#include <string>

namespace winnow {
namespace {

Request Of(const std::string& client, int priority = 0) {
  Request request;
  request.client = client;
  request.priority = priority;
  return request;
}

TEST(LoadTest, ServiceCountsGeneratedTokensTwice) {
  EXPECT_EQ((Load{1, 2, 30, 400}).service(), 30 + 2 * 400);
}

TEST(WaitingLoadTest, IsEmptyWhenAllThatWasAddedIsRemoved) {
  WaitingLoad waiting;
  for (int i = 0; i < 10; ++i) waiting.Add(Of("a", i % 2), {1, 1, 7, 0.1 * i});
  waiting.Add(Of("b"), {1, 3, 5, 1});
  EXPECT_EQ(waiting.total().requests, 11);
  EXPECT_EQ(waiting.total().sequences, 13);
  EXPECT_EQ(waiting.total().prompt_tokens, 75);
  EXPECT_EQ(waiting.levels().at(0).at("b").sequences, 3);
  for (int i = 0; i < 10; ++i) waiting.Remove(Of("a", i % 2), {1, 1, 7, 0.1 * i});
  EXPECT_FALSE(waiting.levels().contains(1));
  EXPECT_FALSE(waiting.levels().at(0).contains("a"));
  waiting.Remove(Of("b"), {1, 3, 5, 1});
  EXPECT_TRUE(waiting.levels().empty());
  EXPECT_EQ(waiting.total().decode_tokens, 0);
}

TEST(WaitingLoadTest, HigherPrioritiesAndTheOwnClientAreAheadWhole) {
  WaitingLoad waiting;
  waiting.Add(Of("other", -1), {1, 1, 1000, 0});
  waiting.Add(Of("own"), {1, 1, 100, 0});
  waiting.Add(Of("other", 1), {1, 1, 10, 0});
  EXPECT_EQ(waiting.Ahead(0, "own", {}).prompt_tokens, 1100);
  EXPECT_EQ(waiting.Ahead(-1, "own", {}).prompt_tokens, 0);
}

TEST(WaitingLoadTest, OfOtherClientsIsAheadWhatTheyAreServedMeanwhile) {
  WaitingLoad waiting;
  waiting.Add(Of("flood"), {10, 10, 1000, 0});
  waiting.Add(Of("modest"), {1, 1, 20, 0});
  waiting.Add(Of("own"), {1, 1, 50, 0});
  const Load ahead = waiting.Ahead(0, "own", {1, 1, 30, 10});  // 50 before, 50 itself
  EXPECT_DOUBLE_EQ(ahead.prompt_tokens, 50 + 20 + 100);
  EXPECT_DOUBLE_EQ(ahead.sequences, 1 + 1 + 1);
}

TEST(RunningPromptsTest, OfEachClientAsMuchIsBesideAsOfTheOneThatComes) {
  RunningPrompts prompts;
  prompts.Add(0, "a", {.prompt_tokens = 700, .prompt_context = 7});
  prompts.Add(0, "a", {.prompt_tokens = 300, .prompt_context = 3});
  prompts.Add(0, "b", {.prompt_tokens = 50});
  prompts.Add(-1, "b", {.prompt_tokens = 2000});
  prompts.Add(1, "c", {.prompt_tokens = 9});
  const Work own = {.prompt_tokens = 100};
  EXPECT_DOUBLE_EQ(prompts.Beside(0, "new", own).prompt_tokens, 100 + 50 + 2000);
  EXPECT_DOUBLE_EQ(prompts.Beside(0, "new", own).prompt_context, 1);
  EXPECT_DOUBLE_EQ(prompts.Beside(0, "new", {}).prompt_tokens, 2000);
  EXPECT_DOUBLE_EQ(prompts.Beside(-2, "new", own).prompt_tokens, 0);
  EXPECT_DOUBLE_EQ(prompts.Beside(0, "a", own).prompt_tokens, 100 + 50 + 2000) << "goes first";
  EXPECT_DOUBLE_EQ(prompts.Beside(0, "b", own).prompt_tokens, 150 + 50 + 2000) << "waits for it";
}

TEST(RunningLoadTest, LowerPrioritiesDoNotCount) {
  RunningLoad running;
  running.Add(0, "a", {0, 2, 10, 20});
  running.Add(1, "a", {0, 1, 1, 2});
  running.Add(2, "b", {0, 4, 0, 0});
  EXPECT_EQ(running.DownTo(1).sequences, 3);
  EXPECT_EQ(running.DownTo(-1).sequences, 0);
  EXPECT_EQ(running.DownTo(2).decode_tokens, 22);
  EXPECT_EQ(running.client_sequences.at("a"), 3);
}

}  // namespace
}  // namespace winnow

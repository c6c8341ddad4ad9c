#include "engine/scheduling/offers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/engine/scheduling/known_costs.h"

namespace winnow {
namespace {

using ::testing::ElementsAre;

const absl::Time kNow = absl::UnixEpoch();

EngineOptions Options() {
  EngineOptions options;
  options.max_context = 10'000;
  return options;
}

Request Of(const std::string& client, int prompt = 10, int tokens = 10, double seconds = 1000) {
  Request request;
  request.client = client;
  request.prompt_tokens.assign(static_cast<size_t>(prompt), 1);
  request.max_tokens = tokens;
  request.ignore_eos = true;
  request.deadline = kNow + absl::Seconds(seconds);
  return request;
}

/// A step takes 100 ms.
constexpr KnownCosts kCosts = {.steps = 0.1, .prompt_tokens = 1e-6, .decode_tokens = 1e-6};

class OffersTest : public testing::Test {
 protected:
  OffersTest() {
    Teach(kCosts, [&](const StepWork& step, double seconds) { forecast_.NoteStep(step, seconds); });
  }
  void Note(const Request& request, absl::Time now = kNow) {
    offers_.Note(request, forecast_, now);
  }
  void Refuse(const std::string& client, absl::Time now = kNow) {
    offers_.NoteRefusal(Of(client), now);
  }
  std::vector<std::string> Refused() const {
    std::vector<std::string> clients;
    for (const Offers::Refused& refused : offers_.refused()) clients.push_back(refused.client);
    return clients;
  }

  Forecast forecast_{Options()};
  Offers offers_;
};

TEST_F(OffersTest, AverageIsEachClientsOwnAndWeightedByTokens) {
  EXPECT_FALSE(offers_.AverageOf("a").has_value());
  for (int i = 0; i < 2000; ++i) Note(i % 2 == 0 ? Of("a", 100, 30, 50) : Of("a", 500, 90, 20));
  for (int i = 0; i < 2000; ++i) Note(Of("b", 100, 900, 500));
  const Offers::Average average = *offers_.AverageOf("a");
  EXPECT_NEAR(average.load.sequences, 1, 1e-9);
  EXPECT_NEAR(average.load.decode_tokens, 0.25 * 30 + 0.75 * 90, 1);
  EXPECT_NEAR(average.seconds, 0.25 * 50 + 0.75 * 20, 1);
  EXPECT_EQ(average.load.prompts.rows(), 0);
}

TEST_F(OffersTest, AverageLeavesOutWhatClaimsTheEngineAndWhatHasAllTime) {
  Note(Of("a", 100, 100, 5));
  Note(Of("a", 100, 100, 12));  // 10 s are its own
  Request patient = Of("a");
  patient.deadline = absl::InfiniteFuture();
  Note(patient);
  EXPECT_FALSE(offers_.AverageOf("a").has_value());
}

TEST_F(OffersTest, MoreClientsThanAreRememberedHideNeitherKnownOnesNorNewOnes) {
  const auto at = [](double seconds) { return kNow + absl::Seconds(seconds); };
  Note(Of("known"));
  for (int i = 0; i < 1023; ++i) Note(Of(std::to_string(i)), at(1));
  Note(Of("known"), at(2));
  Note(Of("new"), at(2));
  EXPECT_TRUE(offers_.AverageOf("known").has_value());
  EXPECT_TRUE(offers_.AverageOf("new").has_value());
  int forgotten = 0;
  for (int i = 0; i < 1023; ++i) forgotten += !offers_.AverageOf(std::to_string(i)).has_value();
  EXPECT_EQ(forgotten, 1);
}

TEST_F(OffersTest, RemembersTheLastEightThatWereRefusedWithinAMinute) {
  for (const char* client : {"a", "b", "a"}) Refuse(client);
  EXPECT_THAT(Refused(), ElementsAre("b", "a")) << "each once";
  for (int i = 0; i < 20; ++i) Refuse(std::to_string(i), kNow + absl::Seconds(30));
  EXPECT_EQ(Refused().size(), 8u);
  EXPECT_EQ(Refused().back(), "19");
  Refuse("late", kNow + absl::Seconds(91));
  EXPECT_THAT(Refused(), ElementsAre("late"));
}

}  // namespace
}  // namespace winnow

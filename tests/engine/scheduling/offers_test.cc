#include "engine/scheduling/offers.h"

#include <gtest/gtest.h>

#include <string>

namespace winnow {
namespace {

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

class OffersTest : public testing::Test {
 protected:
  // A prompt token takes 1 ms, a step 100 ms.
  OffersTest() {
    engine_.forecast.mutable_costs().NoteStep({{0, 100}}, 0, 0.1);
    engine_.forecast.mutable_costs().NoteStep({}, 1, 0.1);
  }
  void Note(const Request& request, absl::Time now = kNow) {
    offers_.Note(request, engine_.forecast, now);
  }
  double Kept(const std::string& client, absl::Time now = kNow) const {
    return offers_.KeptForOthers(client, engine_, now).sequences;
  }

  EngineLoad engine_{Options()};
  Offers offers_;
};

TEST_F(OffersTest, AverageIsWeightedByTokens) {
  EXPECT_FALSE(offers_.average().has_value());
  for (int i = 0; i < 2000; ++i) Note(i % 2 == 0 ? Of("a", 100, 30, 50) : Of("a", 500, 90, 10));
  EXPECT_NEAR(offers_.average()->prompt_tokens, 0.25 * 100 + 0.75 * 500, 5);
  EXPECT_NEAR(offers_.average()->tokens, 0.25 * 30 + 0.75 * 90, 1);
  EXPECT_NEAR(offers_.average()->seconds, 0.25 * 50 + 0.75 * 10, 1);
}

TEST_F(OffersTest, AverageLeavesOutWhatNoEngineCouldEndInTimeAndWhatHasAllTime) {
  Note(Of("a", 100, 100, 5));
  Request patient = Of("a");
  patient.deadline = absl::InfiniteFuture();
  Note(patient);
  EXPECT_FALSE(offers_.average().has_value());
}

TEST_F(OffersTest, AMissingPromptCountsAsTheAverageOne) {
  Note(Of("a", 400));
  for (int i = 0; i < 100; ++i) Note(Of("a", 0));
  EXPECT_NEAR(offers_.average()->prompt_tokens, 400, 1e-6);
}

TEST_F(OffersTest, KeepsPlacesForClientsThatCameLatelyAndHaveLess) {
  engine_.running.Add(0, "flood", {0, 20, 0, 0});
  engine_.waiting.Add(Of("busy"), {30, 30, 0, 0});
  for (const char* client : {"flood", "busy", "new"}) Note(Of(client));
  EXPECT_EQ(Kept("flood"), 2) << "for the new one";
  EXPECT_EQ(Kept("busy"), 4);
  EXPECT_EQ(Kept("new"), 0);
  EXPECT_EQ(Kept("flood", kNow + absl::Seconds(16)), 0);
}

TEST_F(OffersTest, MoreClientsThanAreRememberedHideNeitherKnownOnesNorNewOnes) {
  engine_.running.Add(0, "flood", {0, 1e6, 0, 0});
  const auto at = [](double seconds) { return kNow + absl::Seconds(seconds); };
  Note(Of("known"));
  for (int i = 0; i < 1023; ++i) Note(Of(std::to_string(i)), at(1));
  Note(Of("known"), at(14));
  Note(Of("new"), at(14));
  // Of those, all others came more than 15 s before.
  EXPECT_EQ(Kept("flood", at(17)), 2 * 2);
}

TEST_F(OffersTest, RemembersABoundedNumberOfClients) {
  engine_.running.Add(0, "flood", {0, 1e6, 0, 0});
  for (int i = 0; i < 3000; ++i) Note(Of(std::to_string(i)));
  EXPECT_EQ(Kept("flood"), 2 * 1024);
}

TEST_F(OffersTest, KeepsNoMorePlacesThanTheClientHas) {
  engine_.running.Add(0, "modest", {0, 3, 0, 0});
  for (int i = 0; i < 100; ++i) Note(Of(std::to_string(i)));
  EXPECT_EQ(Kept("modest"), 3);
}

}  // namespace
}  // namespace winnow

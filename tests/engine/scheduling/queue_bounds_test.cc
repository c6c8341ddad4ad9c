#include "engine/scheduling/queue_bounds.h"

#include <gtest/gtest.h>

#include <string>

namespace winnow {
namespace {

using Bound = QueueBounds::Bound;

Request Of(const std::string& client, int priority = 0) {
  Request request;
  request.client = client;
  request.priority = priority;
  return request;
}

class QueueBoundsTest : public testing::Test {
 protected:
  static EngineOptions Options() {
    EngineOptions options;
    options.max_waiting_requests = 4;
    options.max_waiting_tokens = 1000;
    return options;
  }
  void Wait(const std::string& client, int priority = 0, double prompt_tokens = 10) {
    waiting_.Add(Of(client, priority), {1, 1, prompt_tokens, 1});
  }

  const QueueBounds bounds_{Options()};
  WaitingLoad waiting_;
};

TEST_F(QueueBoundsTest, BoundRequests) {
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(bounds_.ExceededWith(waiting_, {1, 1, 10, 1}), Bound::kNone);
    Wait("a");
    EXPECT_FALSE(bounds_.Exceeded(waiting_));
  }
  EXPECT_EQ(bounds_.ExceededWith(waiting_, {1, 1, 10, 1}), Bound::kRequests);
  Wait("a");
  EXPECT_TRUE(bounds_.Exceeded(waiting_));
}

TEST_F(QueueBoundsTest, BoundPromptTokensOfAllButASingleRequest) {
  EXPECT_EQ(bounds_.ExceededWith(waiting_, {1, 1, 5000, 1}), Bound::kNone);
  Wait("a", 0, 5000);
  EXPECT_FALSE(bounds_.Exceeded(waiting_));
  EXPECT_EQ(bounds_.ExceededWith(waiting_, {1, 1, 0, 1}), Bound::kTokens);
  Wait("a", 0, 1);
  EXPECT_TRUE(bounds_.Exceeded(waiting_));
}

TEST_F(QueueBoundsTest, TheLowestPriorityGivesWay) {
  Wait("many", 0);
  Wait("many", 0);
  Wait("few", 2);
  EXPECT_EQ(QueueBounds::GivesWay(waiting_, Of("many", 0)).priority, 2);
  EXPECT_EQ(QueueBounds::GivesWay(waiting_, Of("many", 0)).client, "few");
  EXPECT_FALSE(QueueBounds::WouldGiveWay(waiting_, Of("new", 1)));
  EXPECT_TRUE(QueueBounds::WouldGiveWay(waiting_, Of("new", 3)));
}

TEST_F(QueueBoundsTest, OfAPriorityTheClientWithTheMostRequestsGivesWay) {
  for (int i = 0; i < 3; ++i) Wait("flood");
  Wait("other");
  EXPECT_TRUE(QueueBounds::WouldGiveWay(waiting_, Of("flood")));
  EXPECT_FALSE(QueueBounds::WouldGiveWay(waiting_, Of("other")));
  EXPECT_FALSE(QueueBounds::WouldGiveWay(waiting_, Of("new")));
  Wait("new");
  EXPECT_EQ(QueueBounds::GivesWay(waiting_, Of("new")).client, "flood");
}

TEST_F(QueueBoundsTest, OfEqualClientsTheNewcomersGivesWay) {
  for (const char* client : {"a", "b", "c"}) Wait(client);
  for (const char* client : {"a", "b", "c"}) {
    EXPECT_EQ(QueueBounds::GivesWay(waiting_, Of(client)).client, client);
  }
}

}  // namespace
}  // namespace winnow

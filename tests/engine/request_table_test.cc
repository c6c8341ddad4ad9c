#include "engine/request_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "tests/engine/core_requests.h"

namespace winnow {
namespace {

using ::testing::ElementsAre;

class RequestTableTest : public testing::Test {
 protected:
  ActiveRequest& Add(uint64_t id, int priority = 0, const std::string& client = "",
                     absl::Time deadline = absl::InfiniteFuture()) {
    Request request = Sampled(id, Prompt(4), 8, /*n=*/2);
    request.priority = priority;
    request.client = client;
    request.deadline = deadline;
    return table_.Add(std::make_unique<ActiveRequest>(std::move(request), &sink_, absl::UnixEpoch(),
                                                      Load{}, arrivals_++, 1, Options(),
                                                      tokenizer_));
  }

  LetterTokenizer tokenizer_{CoreBench::kVocab};
  RecordingSink sink_{2};
  RequestTable table_;
  int64_t arrivals_ = 0;
};

TEST_F(RequestTableTest, RequestsAreFoundByIdAndBySequence) {
  ActiveRequest& b = Add(7);
  ActiveRequest& a = Add(3);
  EXPECT_EQ(table_.Find(3), &a);
  EXPECT_EQ(table_.Find(4), nullptr);
  EXPECT_EQ(&table_.Of(*b.sequences()[1]), &b);
  EXPECT_THAT(table_.all(), ElementsAre(&a, &b));
}

TEST_F(RequestTableTest, RemovedOnesLiveOnWithWhoeverTookThem) {
  ActiveRequest& a = Add(1);
  const std::unique_ptr<ActiveRequest> taken = table_.Remove(a);
  EXPECT_EQ(taken.get(), &a);
  EXPECT_TRUE(table_.empty());
}

TEST_F(RequestTableTest, NextDeadlineIsTheFirstOfAll) {
  EXPECT_EQ(table_.NextDeadline(), absl::InfiniteFuture());
  Add(1);
  Add(2, 0, "", absl::UnixEpoch() + absl::Seconds(9));
  Add(3, 0, "", absl::UnixEpoch() + absl::Seconds(5));
  EXPECT_EQ(table_.NextDeadline(), absl::UnixEpoch() + absl::Seconds(5));
}

TEST_F(RequestTableTest, YoungestThatWaitsIsOfThatClientAndPriority) {
  Add(9, 1, "a");
  ActiveRequest& young = Add(2, 1, "a");
  Add(5, 1, "b");
  Add(6, 2, "a");
  ActiveRequest& started = Add(1, 1, "a");
  started.NoteStart(0, absl::UnixEpoch());
  EXPECT_EQ(table_.YoungestWaiting(1, "a"), &young);
  EXPECT_EQ(table_.YoungestWaiting(0, "a"), nullptr);
}

}  // namespace
}  // namespace winnow

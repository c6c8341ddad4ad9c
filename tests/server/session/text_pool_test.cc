#include "server/session/text_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "tests/server/notification.h"

namespace winnow {
namespace {

using ::testing::ElementsAre;

constexpr size_t kLong = TextPool::kAtOnceBytes + 1;

/// One thread that is busy until it is told.
class BusyPool {
 public:
  BusyPool() {
    Notification started;
    pool.Run("busy", kLong, [&] {
      started.Notify();
      may_go_on.WaitForNotification();
    });
    started.WaitForNotification();
  }
  Notification may_go_on;  // outlives the pool's thread
  TextPool pool{1};
};

TEST(TextPoolTest, ShortTextsAreWorkedOnAtOnceWhateverElseWaits) {
  BusyPool busy;
  std::thread::id where;
  EXPECT_TRUE(
      busy.pool.Run("a", TextPool::kAtOnceBytes, [&] { where = std::this_thread::get_id(); }));
  EXPECT_EQ(where, std::this_thread::get_id());
  busy.may_go_on.Notify();
}

TEST(TextPoolTest, ClientsTakeTurnsAndTheirOwnTextsComeInOrder) {
  std::vector<std::string> ran;
  {
    BusyPool busy;
    for (const char* text : {"a1", "a2", "a3", "b1", "b2", "c1"}) {
      EXPECT_TRUE(
          busy.pool.Run(std::string(1, text[0]), kLong, [&ran, text] { ran.push_back(text); }));
    }
    busy.may_go_on.Notify();
  }  // does what is left
  EXPECT_THAT(ran, ElementsAre("a1", "b1", "c1", "a2", "b2", "a3"));
}

TEST(TextPoolTest, NobodyFillsItAlone) {
  BusyPool busy;
  std::atomic<int> done = 0;
  const auto fill = [&](const std::string& client) {
    int accepted = 0;
    while (accepted < 100 && busy.pool.Run(client, 1 << 20, [&] { ++done; })) ++accepted;
    return accepted;
  };
  EXPECT_EQ(fill("a"), 16);
  EXPECT_EQ(fill("b"), 16);
  EXPECT_EQ(fill("c"), 16);
  EXPECT_EQ(fill("d"), 16);
  EXPECT_EQ(fill("e"), 0);
  busy.may_go_on.Notify();
  while (done < 64) std::this_thread::yield();
  EXPECT_TRUE(busy.pool.Run("a", TextPool::kMaxBytes + 1, [] {}));  // nothing waits
}

TEST(TextPoolTest, ThreadsWorkBesideEachOther) {
  Notification first, second;  // outlive the pool's threads
  TextPool pool(2);
  pool.Run("a", kLong, [&] {
    first.Notify();
    second.WaitForNotification();
  });
  pool.Run("a", kLong, [&] {
    first.WaitForNotification();
    second.Notify();
  });
}

}  // namespace
}  // namespace winnow

#include "server/session/delivery_thread.h"

#include <gtest/gtest.h>

#include <optional>
#include <thread>
#include <vector>

#include "tests/server/notification.h"

namespace winnow {
namespace {

TEST(DeliveryThreadTest, RunsEverythingInOrderOnAnotherThreadAlsoWhatIsLeftAtTheEnd) {
  std::vector<int> ran;
  std::thread::id where;
  std::optional<DeliveryThread> delivery(std::in_place);
  Notification may_go_on;
  delivery->Post([&] { may_go_on.WaitForNotification(); });
  for (int i = 0; i < 1000; ++i) {
    delivery->Post([&ran, &where, i] {
      ran.push_back(i);
      where = std::this_thread::get_id();
    });
  }
  may_go_on.Notify();  // Post did not wait for any of them
  delivery.reset();
  ASSERT_EQ(ran.size(), 1000u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(ran[static_cast<size_t>(i)], i);
  EXPECT_NE(where, std::this_thread::get_id());
}

TEST(DeliveryThreadTest, ADeliveryMayPostAnother) {
  Notification ran;
  DeliveryThread delivery;
  delivery.Post([&] { delivery.Post([&] { ran.Notify(); }); });
  ran.WaitForNotification();
}

}  // namespace
}  // namespace winnow

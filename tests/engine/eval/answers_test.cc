#include "engine/eval/answers.h"

#include <gmock/gmock.h>

#include <vector>

#include "gtest/gtest.h"

namespace winnow {
namespace {

using ::testing::ElementsAre;

TEST(DropMiddleTest, KeepsBothEndsAndTheFirstTokenRather) {
  std::vector<int32_t> prompt = {0, 1, 2, 3, 4, 5, 6};
  DropMiddle(7, &prompt);
  EXPECT_THAT(prompt, ElementsAre(0, 1, 2, 3, 4, 5, 6));
  DropMiddle(6, &prompt);
  EXPECT_THAT(prompt, ElementsAre(0, 1, 2, 4, 5, 6));
  DropMiddle(3, &prompt);
  EXPECT_THAT(prompt, ElementsAre(0, 1, 6));
  DropMiddle(1, &prompt);
  EXPECT_THAT(prompt, ElementsAre(0));
}

}  // namespace
}  // namespace winnow

#include <cstdlib>
#include <numeric>
#include <utility>

#include "engine/model/label_file.h"
#include "gtest/gtest.h"

namespace winnow {
namespace {

TEST(DemoLabelFileTest, TheShippedFilesFitTheDemoModelUpToItsFullContext) {
  const char* path = std::getenv("WINNOW_DEMO_MODEL");
  ASSERT_NE(path, nullptr) << "set WINNOW_DEMO_MODEL to the demo model's file";
  const auto checkpoint = Checkpoint::Open(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const std::pair<const char*, int> files[] = {
      {"models/smollm2-135m-instruct.labels.json", 16},
      {"models/smollm2-135m-instruct.labels-r32.json", 32}};
  for (const auto& [name, width] : files) {
    SCOPED_TRACE(name);
    const auto file = LabelFile::Read(name, **checkpoint);
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(file->basis, "projection");
    EXPECT_EQ(file->width, width);
    EXPECT_EQ(file->calibrated_context, (*checkpoint)->config().max_context);
    ASSERT_EQ(file->budget_weights.size(), 90u);
    const float sum =
        std::accumulate(file->budget_weights.begin(), file->budget_weights.end(), 0.0f);
    EXPECT_NEAR(sum / 90, 1, 1e-3);
  }
}

}  // namespace
}  // namespace winnow

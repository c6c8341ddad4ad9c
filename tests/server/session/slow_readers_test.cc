#include "server/session/slow_readers.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/time/clock.h"

namespace winnow {
namespace {

TEST(SlowReadersTest, CutsOffOnceWhatIsBeingWrittenForTooLong) {
  SlowReaders readers;
  int aborted = 0;
  SlowReaders::Watch idle(readers, [](const std::string&) { FAIL(); });
  SlowReaders::Watch done(readers, [](const std::string&) { FAIL(); });
  SlowReaders::Watch slow(readers, [&](const std::string& message) {
    EXPECT_EQ(message, "the client has read nothing for 5 seconds");
    ++aborted;
  });
  done.OnWrite();
  done.OnWriteDone();
  slow.OnWrite();
  const absl::Time now = absl::Now();
  readers.CutOff(absl::Seconds(5), now);
  EXPECT_FALSE(slow.cut_off());
  readers.CutOff(absl::Seconds(5), now + absl::Seconds(6));
  readers.CutOff(absl::Seconds(5), now + absl::Seconds(7));
  EXPECT_TRUE(slow.cut_off());
  EXPECT_FALSE(done.cut_off());
  EXPECT_EQ(aborted, 1);
}

TEST(SlowReadersTest, ACallMayEndWhileItIsCutOff) {
  SlowReaders readers;
  std::unique_ptr<SlowReaders::Watch> watch;
  watch = std::make_unique<SlowReaders::Watch>(readers, [&](const std::string&) { watch.reset(); });
  watch->OnWrite();
  readers.CutOff(absl::Seconds(5), absl::Now() + absl::Hours(1));
  EXPECT_EQ(watch, nullptr);
  readers.CutOff(absl::Seconds(5), absl::Now() + absl::Hours(2));
}

}  // namespace
}  // namespace winnow

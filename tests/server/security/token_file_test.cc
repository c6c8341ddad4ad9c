#include "server/security/token_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"

namespace winnow {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

const std::string kHexOfAbc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
const std::string kHexOfEmpty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

std::string Hex(const Sha256Digest& digest) {
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

TEST(TokenFile, MayBeginWithAByteOrderMark) {
  const auto holders = ParseTokenFile("\uFEFFalice: sha256=" + std::string(64, '0') + "\n");
  ASSERT_TRUE(holders.ok()) << holders.status();
  EXPECT_EQ(holders->at(0).name, "alice");
}

TEST(TokenFile, Sha256IsThatOfTheStandardsExamples) {  // FIPS 180-2, appendix B
  EXPECT_EQ(Hex(Sha256("abc")), kHexOfAbc);
  EXPECT_EQ(Hex(Sha256("")), kHexOfEmpty);
}

TEST(TokenFile, ReadsHoldersWithTheirDigestsAndLimits) {
  const auto holders =
      ParseTokenFile("# who may call\n\n  alice: sha256=" + kHexOfAbc +
                     "  # her laptop\nbatch-1@x.y_z:\tsha256=" + kHexOfAbc +
                     " sha256=" + kHexOfEmpty + " tokens-per-minute=60000 requests=4\r\n");
  ASSERT_TRUE(holders.ok()) << holders.status();
  ASSERT_THAT(*holders, SizeIs(2));
  EXPECT_EQ((*holders)[0].name, "alice");
  EXPECT_THAT((*holders)[0].digests, testing::ElementsAre(Sha256("abc")));
  EXPECT_EQ((*holders)[0].limits.requests, 0);
  EXPECT_EQ((*holders)[0].limits.tokens_per_minute, 0);
  EXPECT_EQ((*holders)[1].name, "batch-1@x.y_z");
  EXPECT_THAT((*holders)[1].digests, testing::ElementsAre(Sha256("abc"), Sha256("")));
  EXPECT_EQ((*holders)[1].limits.requests, 4);
  EXPECT_EQ((*holders)[1].limits.tokens_per_minute, 60000);
}

TEST(TokenFile, AnErrorNamesTheLineAndKeepsSecretsToItself) {
  const std::string good = "alice: sha256=" + kHexOfAbc;
  const struct {
    std::string text;
    std::string says;
  } cases[] = {
      {"", "there is no token in it"},
      {"# nothing\n", "there is no token in it"},
      {good + "\n\nhunter2\n", "line 3: must begin with a name and a colon"},
      {": sha256=" + kHexOfAbc, "line 1: must begin with a name"},
      {"a b: sha256=" + kHexOfAbc, "line 1: must begin with a name"},
      {std::string(65, 'a') + ": sha256=" + kHexOfAbc, "line 1: must begin with a name"},
      {"bob: hunter2", "line 1: what follows the name must be sha256=HEX"},
      {"bob: token=hunter2", "line 1: what follows the name must be sha256=HEX"},
      {"bob: sha256=hunter2", "line 1: sha256 must be 64 hexadecimal digits"},
      {"bob: sha256=" + kHexOfAbc + "0", "line 1: sha256 must be 64"},
      {"bob: requests=4", "line 1: sha256=HEX is missing"},
      {good + " requests=0", "line 1: requests must be a whole number of at least 1"},
      {good + " requests=many", "line 1: requests must be"},
      {good + " tokens-per-minute=-1", "line 1: tokens-per-minute must be"},
      {good + "\n" + good, "line 2: alice has a line already"},
  };
  for (const auto& c : cases) {
    const absl::Status status = ParseTokenFile(c.text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.says));
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("hunter2")));
  }
}

}  // namespace
}  // namespace winnow

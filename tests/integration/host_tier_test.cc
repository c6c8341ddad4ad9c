// The host tier behind the prefix cache of the real server: documents that the KV pool has no room
// for are asked about again.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/integration/client.h"
#include "tests/integration/server_process.h"

namespace winnow {
namespace {

using ::testing::ElementsAreArray;

/// Some 640 tokens that begin with a title.
std::string Document(const std::string& title) {
  std::string text = absl::StrCat(title, ".\n");
  for (int i = 0; i < 40; ++i) {
    absl::StrAppend(&text, "Item ", i, " of the list was counted ", i * i, " times last year.\n");
  }
  return text;
}

/// A server whose KV pool holds one document and an answer, and the answers to one about Apples
/// before and after others were there.
class HostTierTest : public testing::Test {
 protected:
  void AskAround(std::vector<std::string> flags) {
    for (const char* flag : {"--max-context", "1024", "--kv-tokens", "1024"}) flags.push_back(flag);
    auto server = ServerProcess::Start(flags);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    const auto stub = v1::GenerationService::NewStub(Connect(server_->address()));
    const auto ask = [&](const char* title) {
      return Generate(*stub, Greedy(Document(title), 24));
    };
    first_ = ask("Apples");
    for (const char* title : {"Pears", "Plums"}) ASSERT_TRUE(ask(title).status.ok());
    again_ = ask("Apples");
    ASSERT_TRUE(first_.status.ok() && again_.status.ok());
    ASSERT_TRUE(server_->BecomesIdle());
    EXPECT_THAT(again_.continuations, ElementsAreArray(first_.continuations));
  }
  double Moved(const char* kind) const {
    return server_->Metric(absl::StrCat("winnow_kv_host_moves_total{kind=\"", kind, "\"}"))
        .value_or(-1);
  }
  void ExpectFetched() const {
    const int cached = again_.summary.usage().cached_tokens();
    EXPECT_GT(cached, again_.summary.usage().prompt_tokens() - 33);
    EXPECT_EQ(Moved("fetched"), cached / 32);
    EXPECT_GT(Moved("spilled"), Moved("fetched"));
  }

  std::unique_ptr<ServerProcess> server_;
  Generation first_, again_;
};

TEST_F(HostTierTest, WithoutOneADocumentThatGaveWayIsComputedAgain) {
  ASSERT_NO_FATAL_FAILURE(AskAround({}));
  EXPECT_LT(again_.summary.usage().cached_tokens(), 64);
  EXPECT_EQ(Moved("spilled"), 0);
}

TEST_F(HostTierTest, ADocumentThatGaveWayIsFetchedAndItsAnswerIsTheSame) {
  ASSERT_NO_FATAL_FAILURE(AskAround({"--kv-host-bytes", "100000000"}));
  ExpectFetched();
}

TEST_F(HostTierTest, ItMayLieInAFile) {
  const std::string path = testing::TempDir() + "/host_tier_of_the_server";
  ASSERT_NO_FATAL_FAILURE(AskAround({"--kv-host-bytes", "100000000", "--kv-host-file", path}));
  ExpectFetched();
}

}  // namespace
}  // namespace winnow

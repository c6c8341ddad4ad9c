#include "engine/request/request_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/engine/core_requests.h"
#include "tests/engine/fakes.h"

namespace winnow {
namespace {

using ::testing::HasSubstr;

TEST(CheckRequestTest, NamesTheFieldAtFault) {
  const EngineOptions options = Options(8);  // 32 tokens
  const auto error = [&](const Request& request) {
    const absl::Status status = CheckRequest(request, options, CoreBench::kVocab);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  EXPECT_TRUE(CheckRequest(Greedy(1, Prompt(30), 2), options, CoreBench::kVocab).ok());
  EXPECT_THAT(error(Greedy(1, {}, 2)), HasSubstr("prompt"));
  EXPECT_THAT(error(Greedy(1, Prompt(128), 2)), HasSubstr("context of 128"));
  EXPECT_THAT(error(Greedy(1, {1, CoreBench::kVocab}, 2)), HasSubstr("vocabulary"));
  EXPECT_THAT(error(Greedy(1, {-1}, 2)), HasSubstr("vocabulary"));
  EXPECT_THAT(error(Greedy(1, Prompt(2), 0)), HasSubstr("max_tokens"));
  EXPECT_THAT(error(Greedy(1, Prompt(30), 3)), HasSubstr("KV cache holds 32"));
  EXPECT_THAT(error(Greedy(1, Prompt(30), 2'000'000'000)), HasSubstr("KV cache"));
  EXPECT_THAT(error(Sampled(1, Prompt(3), 2, 0)), HasSubstr("n:"));
  EXPECT_THAT(error(Sampled(1, Prompt(3), 2, 9)), HasSubstr("between 1 and 8"));
  Request request = Greedy(1, Prompt(3), 2);
  request.sampling.logit_bias = {{CoreBench::kVocab, 1.0f}};
  EXPECT_THAT(error(request), HasSubstr("logit_bias"));
  request.sampling.logit_bias = {{0, NAN}};
  EXPECT_THAT(error(request), HasSubstr("logit_bias"));
}

}  // namespace
}  // namespace winnow

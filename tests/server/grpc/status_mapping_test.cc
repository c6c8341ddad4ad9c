#include "server/grpc/status_mapping.h"

#include <gtest/gtest.h>

#include "absl/time/time.h"
#include "engine/request/refusal.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace winnow {
namespace {

google::rpc::Status Details(const grpc::Status& status) {
  google::rpc::Status details;
  EXPECT_TRUE(details.ParseFromString(status.error_details()));
  EXPECT_EQ(details.code(), status.error_code());
  EXPECT_EQ(details.message(), status.error_message());
  return details;
}

TEST(StatusMapping, KeepsCodeAndMessage) {
  EXPECT_TRUE(ToGrpcStatus(EndOf(absl::OkStatus())).ok());
  const grpc::Status status = ToGrpcStatus(EndOf(absl::UnavailableError("draining")));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(status.error_message(), "draining");
  EXPECT_EQ(status.error_details(), "");
  EXPECT_EQ(ToGrpcStatus(EndOf(absl::DeadlineExceededError(""))).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(ToGrpcStatus(EndOf(absl::CancelledError(""))).error_code(),
            grpc::StatusCode::CANCELLED);
}

TEST(StatusMapping, SaysWhenToRetryARefusedRequest) {
  const google::rpc::Status details = Details(
      ToGrpcStatus(EndOf(Refusal(ShedReason::kQueueRequests, "full", absl::Milliseconds(2250)))));
  EXPECT_EQ(details.code(), static_cast<int>(grpc::StatusCode::RESOURCE_EXHAUSTED));
  ASSERT_EQ(details.details_size(), 1);
  EXPECT_EQ(details.details(0).type_url(), "type.googleapis.com/google.rpc.RetryInfo");
  google::rpc::RetryInfo retry;
  ASSERT_TRUE(details.details(0).UnpackTo(&retry));
  EXPECT_EQ(retry.retry_delay().seconds(), 2);
  EXPECT_EQ(retry.retry_delay().nanos(), 250'000'000);
}

TEST(StatusMapping, ListsAllViolationsInTheDetails) {
  const grpc::Status status = ToGrpcStatus(
      Invalid({{"a", "is bad"}, {"b", "is worse"}, {"c", "is odd"}, {"d", "is too long"}}));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "a: is bad; b: is worse; c: is odd; and 1 more");
  const google::rpc::Status details = Details(status);
  ASSERT_EQ(details.details_size(), 1);
  google::rpc::BadRequest bad_request;
  ASSERT_TRUE(details.details(0).UnpackTo(&bad_request));
  ASSERT_EQ(bad_request.field_violations_size(), 4);
  EXPECT_EQ(bad_request.field_violations(3).field(), "d");
  EXPECT_EQ(bad_request.field_violations(3).description(), "is too long");
}

TEST(StatusMapping, CodesAreSpelledAlikeOnBothSides) {
  // What metrics and logs call codes is what clients know them as.
  for (const auto& [code, name] : {std::pair(grpc::StatusCode::OK, "OK"),
                                   {grpc::StatusCode::CANCELLED, "CANCELLED"},
                                   {grpc::StatusCode::INVALID_ARGUMENT, "INVALID_ARGUMENT"},
                                   {grpc::StatusCode::RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED"},
                                   {grpc::StatusCode::UNAUTHENTICATED, "UNAUTHENTICATED"}}) {
    EXPECT_EQ(absl::StatusCodeToString(static_cast<absl::StatusCode>(code)), name);
  }
}

}  // namespace
}  // namespace winnow

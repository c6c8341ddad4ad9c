#include "server/grpc/status_mapping.h"

#include <algorithm>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "engine/request/refusal.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace winnow {
namespace {

/// Violations that the message spells; the details have all of them.
constexpr size_t kSpelledViolations = 3;

grpc::Status WithDetails(grpc::StatusCode code, const std::string& message,
                         const google::protobuf::Message& detail) {
  google::rpc::Status details;
  details.set_code(code);
  details.set_message(message);
  details.add_details()->PackFrom(detail);
  return grpc::Status(code, message, details.SerializeAsString());
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  const auto code = static_cast<grpc::StatusCode>(status.code());  // the same numbers
  const std::string message(status.message());
  const std::optional<RefusalDetails> refusal = DetailsOf(status);
  if (!refusal.has_value()) return grpc::Status(code, message);
  google::rpc::RetryInfo retry;
  const auto delay = absl::ToInt64Milliseconds(refusal->retry_after);
  retry.mutable_retry_delay()->set_seconds(delay / 1000);
  retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(delay % 1000 * 1'000'000));
  return WithDetails(code, message, retry);
}

grpc::Status OverQuota(const ClientQuota::Refusal& refusal) {
  google::rpc::RetryInfo retry;
  const timespec delay = absl::ToTimespec(refusal.retry_after);
  retry.mutable_retry_delay()->set_seconds(delay.tv_sec);
  retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(delay.tv_nsec));
  const std::string message =
      refusal.too_many_requests
          ? absl::StrCat("this client may have ", refusal.limits.requests,
                         " requests at the same time")
          : absl::StrCat("this client may take ", refusal.limits.tokens_per_minute,
                         " tokens a minute");
  return WithDetails(grpc::StatusCode::RESOURCE_EXHAUSTED, message, retry);
}

grpc::Status BadRequest(const std::vector<FieldViolation>& violations) {
  google::rpc::BadRequest bad_request;
  for (const FieldViolation& violation : violations) {
    auto* added = bad_request.add_field_violations();
    added->set_field(violation.field);
    added->set_description(violation.description);
  }
  std::string message;
  const size_t spelled = std::min(violations.size(), kSpelledViolations);
  for (size_t i = 0; i < spelled; ++i) {
    absl::StrAppend(&message, i == 0 ? "" : "; ", violations[i].field, ": ",
                    violations[i].description);
  }
  if (violations.size() > spelled) {
    absl::StrAppend(&message, "; and ", violations.size() - spelled, " more");
  }
  return WithDetails(grpc::StatusCode::INVALID_ARGUMENT, message, bad_request);
}

std::string_view CodeName(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::OK:
      return "OK";
    case grpc::StatusCode::CANCELLED:
      return "CANCELLED";
    case grpc::StatusCode::INVALID_ARGUMENT:
      return "INVALID_ARGUMENT";
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return "DEADLINE_EXCEEDED";
    case grpc::StatusCode::NOT_FOUND:
      return "NOT_FOUND";
    case grpc::StatusCode::UNAUTHENTICATED:
      return "UNAUTHENTICATED";
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return "RESOURCE_EXHAUSTED";
    case grpc::StatusCode::FAILED_PRECONDITION:
      return "FAILED_PRECONDITION";
    case grpc::StatusCode::ABORTED:
      return "ABORTED";
    case grpc::StatusCode::UNIMPLEMENTED:
      return "UNIMPLEMENTED";
    case grpc::StatusCode::INTERNAL:
      return "INTERNAL";
    case grpc::StatusCode::UNAVAILABLE:
      return "UNAVAILABLE";
    default:
      return "UNKNOWN";
  }
}

}  // namespace winnow

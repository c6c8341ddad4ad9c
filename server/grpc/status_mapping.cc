#include "server/grpc/status_mapping.h"

#include <string>

#include "absl/time/time.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace winnow {
namespace {

google::rpc::BadRequest BadRequest(const std::vector<FieldViolation>& violations) {
  google::rpc::BadRequest bad_request;
  for (const FieldViolation& violation : violations) {
    auto* added = bad_request.add_field_violations();
    added->set_field(violation.field);
    added->set_description(violation.description);
  }
  return bad_request;
}

google::rpc::RetryInfo RetryInfo(absl::Duration retry_after) {
  google::rpc::RetryInfo retry;
  const timespec delay = absl::ToTimespec(retry_after);
  retry.mutable_retry_delay()->set_seconds(delay.tv_sec);
  retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(delay.tv_nsec));
  return retry;
}

}  // namespace

grpc::Status ToGrpcStatus(const CallStatus& end) {
  const auto code = static_cast<grpc::StatusCode>(end.status.code());  // the same numbers
  const std::string message(end.status.message());
  google::rpc::Status details;
  if (!end.violations.empty()) details.add_details()->PackFrom(BadRequest(end.violations));
  if (end.retry_after.has_value()) details.add_details()->PackFrom(RetryInfo(*end.retry_after));
  if (details.details().empty()) return grpc::Status(code, message);
  details.set_code(code);
  details.set_message(message);
  return grpc::Status(code, message, details.SerializeAsString());
}

}  // namespace winnow

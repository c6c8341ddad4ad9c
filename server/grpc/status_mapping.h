#pragma once

#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "grpcpp/support/status.h"
#include "server/grpc/request_validation.h"
#include "server/security/client_quota.h"

namespace winnow {

/// The same code and message as a gRPC status. RESOURCE_EXHAUSTED carries a google.rpc.RetryInfo.
grpc::Status ToGrpcStatus(const absl::Status& status);

/// RESOURCE_EXHAUSTED with the quota's limit in words, and a google.rpc.RetryInfo of when to retry.
grpc::Status OverQuota(const ClientQuota::Refusal& refusal);

/// INVALID_ARGUMENT whose details are a google.rpc.BadRequest with all violations and whose message
/// spells the first ones. REQUIRES: `violations` is not empty.
grpc::Status BadRequest(const std::vector<FieldViolation>& violations);

/// "OK", "INVALID_ARGUMENT", ..., as gRPC spells them.
std::string_view CodeName(grpc::StatusCode code);

}  // namespace winnow

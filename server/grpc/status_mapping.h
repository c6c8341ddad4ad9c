#pragma once

#include "grpcpp/support/status.h"
#include "server/session/call_status.h"

namespace winnow {

/// The same code and message as a gRPC status. Its details are a google.rpc.BadRequest with all
/// violations and a google.rpc.RetryInfo with the time to retry after, of those that there are.
grpc::Status ToGrpcStatus(const CallStatus& end);

}  // namespace winnow

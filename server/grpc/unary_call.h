#pragma once

#include <string>

#include "absl/status/status.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "server/session/call_status.h"
#include "server/session/session_context.h"

namespace winnow {

/// Whether the client may call, and this server serves the model that the call names.
absl::Status CheckCall(const grpc::CallbackServerContext& call, const std::string& model,
                       const SessionContext& context);

/// Ends a call that needs no engine, and counts it.
grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* call, SessionContext& context,
                                const char* method, const CallStatus& end);

}  // namespace winnow

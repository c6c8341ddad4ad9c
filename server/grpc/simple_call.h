#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <string>

#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "server/session/call_status.h"
#include "server/session/session_context.h"

namespace winnow {

/// A call that has one answer and needs no engine.
struct SimpleCall {
  const char* method;     ///< such as "Tokenize": what metrics call it
  std::string model;      ///< that its message names
  size_t text_bytes = 0;  ///< that it works on
  /// Makes the answer, in this thread or one of TextPool. Returns soon once `cancelled` is set;
  /// then the answer is not sent.
  std::function<CallStatus(const std::atomic<bool>& cancelled)> work;
};

/// Checks who calls and for which model, does the work, counts the call and ends it.
grpc::ServerUnaryReactor* StartSimpleCall(SessionContext& context,
                                          grpc::CallbackServerContext& transport, SimpleCall call);

}  // namespace winnow

#pragma once

#include "grpcpp/server_context.h"
#include "server/security/credentials.h"
#include "server/session/generation_session.h"
#include "server/session/slow_readers.h"

namespace winnow {

/// Who makes the call, as its headers and its connection say.
Credentials CredentialsOf(const grpc::ServerContextBase& call);

/// What a generation session needs to know of a call to `method`.
IncomingCall IncomingCallOf(const grpc::CallbackServerContext& call, const char* method);

/// Ends the call from any thread, even if it is over by then.
SlowReaders::Abort AbortOf(grpc::CallbackServerContext& call);

}  // namespace winnow

#pragma once

#include <signal.h>

#include <functional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/commands/serve_flags.h"
#include "server/grpc/grpc_server.h"
#include "server/security/auth.h"
#include "server/session/session_context.h"

namespace winnow {

/// SIGTERM and SIGINT, taken by the main thread instead of interrupting whichever runs.
class Signals {
 public:
  /// To be constructed before anything that starts threads, for they inherit what is blocked: a
  /// thread that does not block them has them end the process whenever the main one is not waiting.
  Signals();

  /// True if one came within `limit`.
  bool Wait(absl::Duration limit) const;

 private:
  sigset_t set_;
};

/// What the main thread does while a server serves: it watches the engine, reads tokens again that
/// have changed, cuts off slow readers, all to the end, and drains after a signal.
class ServeLoop {
 public:
  /// REQUIRES: all of it outlives the loop; `authenticator` is the context's.
  ServeLoop(const ServeFlags& flags, const Signals& signals, SessionContext& context,
            Authenticator& authenticator, GrpcServer& server)
      : flags_(flags),
        signals_(signals),
        context_(context),
        authenticator_(authenticator),
        server_(server) {}

  /// Serves until a signal, has others take over, refuses new requests and lets the running ones
  /// finish. An error when the device failed before that, once all requests have ended. Ends the
  /// process when a step hangs, and at a second signal.
  absl::Status Run();

 private:
  absl::Status LookAfter();
  absl::Status Watch();
  absl::Status WaitUntil(const std::function<bool()>& done);
  absl::Status Drain();
  void ReloadTokens();

  const ServeFlags& flags_;
  const Signals& signals_;
  SessionContext& context_;
  Authenticator& authenticator_;
  GrpcServer& server_;
  absl::Time next_reload_ = absl::InfinitePast();
};

}  // namespace winnow

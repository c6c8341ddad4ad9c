#pragma once

#include "absl/status/status.h"

namespace winnow {

/// Has this process take no further TCP connections on `port`, while those that it has go on: where
/// several processes listen (SO_REUSEPORT), the others get them. gRPC only closes a listener
/// together with its server, which cancels calls that are on their way. NOT_FOUND when nobody here
/// listens.
absl::Status StopAccepting(int port);

}  // namespace winnow

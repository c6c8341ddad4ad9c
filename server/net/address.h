#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace winnow {

/// Where a server listens.
struct Address {
  std::string host;  ///< a name, or an address without brackets; empty: a socket in the file system
  int port = 0;      ///< 0 to 65535; 0 lets the kernel choose
  std::string path;  ///< of that socket

  bool is_unix() const { return host.empty(); }
  /// Whether what is sent to it in plaintext stays on the machine.
  bool IsLoopback() const;
  /// As ParseAddress takes it.
  std::string Text() const;
};

/// Reads "HOST:PORT", "[IPV6]:PORT" or "unix:PATH". INVALID_ARGUMENT says what it must be.
absl::StatusOr<Address> ParseAddress(const std::string& text);

}  // namespace winnow

#pragma once

#include <sys/types.h>

#include <vector>

#include "absl/status/statusor.h"
#include "server/net/address.h"

namespace winnow {

/// Sockets that connections come to: one, or several where a host's name stands for several
/// addresses. Owns them.
class ListeningSockets {
 public:
  /// Listens on the address; on all of IPv4 and IPv6 when it is 0.0.0.0 or ::. With `reuse_port`,
  /// other processes may listen there, too. `peer_timeout_ms`: what is sent to a peer that
  /// acknowledges nothing for so long is given up. UNAVAILABLE says why it can't be had.
  static absl::StatusOr<ListeningSockets> Open(const Address& address, bool reuse_port,
                                               int peer_timeout_ms);
  ~ListeningSockets() { Close(); }
  ListeningSockets(ListeningSockets&& other) noexcept;
  ListeningSockets& operator=(ListeningSockets&& other) noexcept;

  /// With the port that was really taken.
  const Address& address() const { return address_; }
  /// Not blocking.
  const std::vector<int>& descriptors() const { return descriptors_; }

  /// Stops listening. A socket in the file system is removed from it.
  void Close();

 private:
  ListeningSockets() = default;

  Address address_;
  std::vector<int> descriptors_;
  ino_t inode_ = 0;  ///< of the socket in the file system
};

}  // namespace winnow

#pragma once

#include <functional>
#include <thread>

#include "server/net/listening_sockets.h"

namespace winnow {

/// Takes connections in a thread of its own, as long as there are descriptors for them, and goes on
/// once there are again, which transports do not always do.
class Acceptor {
 public:
  struct Callbacks {
    /// Becomes the owner of a connection's descriptor, which does not block. `listener`: where it
    /// came to.
    std::function<void(int listener, int connection)> take;
    /// A connection was closed at once, or left waiting, for lack of descriptors.
    std::function<void()> lacking;
  };

  /// Connections whose descriptors are `max_descriptor` or above are closed: the kernel gives out
  /// the lowest that are free, so only those below it are then left.
  Acceptor(ListeningSockets sockets, int max_descriptor, Callbacks callbacks);
  /// Stops.
  ~Acceptor() { Stop(); }
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  const Address& address() const { return sockets_.address(); }

  /// Takes what has connected by now, and stops listening. Connections that were taken go on.
  void Stop();

 private:
  void Loop();
  bool TakeAll(int listener);

  ListeningSockets sockets_;
  const int max_descriptor_;
  const Callbacks callbacks_;
  int stop_event_;
  std::thread thread_;  ///< last: it uses the others
};

}  // namespace winnow

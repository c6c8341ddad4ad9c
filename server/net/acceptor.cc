#include "server/net/acceptor.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "engine/base/check.h"

namespace winnow {
namespace {

/// How soon it is tried again whether there are descriptors.
constexpr int kRetryMs = 100;

/// Whether accept failed because of the one connection that it was about.
bool ConcernsOneConnection(int error) {
  return error == ECONNABORTED || error == EINTR || error == EPROTO || error == EPERM;
}

}  // namespace

Acceptor::Acceptor(ListeningSockets sockets, int max_descriptor, Callbacks callbacks)
    : sockets_(std::move(sockets)),
      max_descriptor_(max_descriptor),
      callbacks_(std::move(callbacks)),
      stop_event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      thread_([this] { Loop(); }) {
  WINNOW_CHECK(stop_event_ >= 0);
}

void Acceptor::Stop() {
  if (!thread_.joinable()) return;
  eventfd_write(stop_event_, 1);
  thread_.join();
  for (const int listener : sockets_.descriptors()) TakeAll(listener);
  sockets_.Close();
  close(stop_event_);
}

void Acceptor::Loop() {
  std::vector<pollfd> watched = {{.fd = stop_event_, .events = POLLIN, .revents = 0}};
  for (const int listener : sockets_.descriptors()) {
    watched.push_back({.fd = listener, .events = POLLIN, .revents = 0});
  }
  bool lacking = false;  // what waits may wait a little
  while (true) {
    poll(watched.data(), lacking ? 1 : watched.size(), lacking ? kRetryMs : -1);
    if (watched[0].revents != 0) return;
    lacking = false;
    for (const int listener : sockets_.descriptors()) lacking |= !TakeAll(listener);
  }
}

// Takes all that waits; false when something is left for lack of resources.
bool Acceptor::TakeAll(int listener) {
  while (true) {
    const int connection = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (connection >= max_descriptor_) {
      callbacks_.lacking();  // before the client can know
      close(connection);
    } else if (connection >= 0) {
      callbacks_.take(listener, connection);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return true;
    } else if (!ConcernsOneConnection(errno)) {
      callbacks_.lacking();
      return false;
    }
  }
}

}  // namespace winnow

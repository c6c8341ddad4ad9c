#include "server/net/listening_sockets.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"

namespace winnow {
namespace {

/// The kernel takes no more than net.core.somaxconn.
constexpr int kBacklog = 65535;

struct SocketAddress {
  sockaddr_storage storage = {};
  socklen_t size = 0;

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

absl::Status Unavailable(const Address& address, const std::string& reason) {
  return absl::UnavailableError(absl::StrCat("can't listen on ", address.Text(), ": ", reason));
}

SocketAddress AnyIpv6(int port) {
  SocketAddress any;
  auto& in6 = reinterpret_cast<sockaddr_in6&>(any.storage);
  in6.sin6_family = AF_INET6;
  in6.sin6_port = htons(static_cast<uint16_t>(port));
  any.size = sizeof(in6);
  return any;
}

/// All that the host's name stands for.
absl::StatusOr<std::vector<SocketAddress>> Resolve(const Address& address) {
  addrinfo hints = {};
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error =
      getaddrinfo(address.host.c_str(), absl::StrCat(address.port).c_str(), &hints, &found);
  if (error != 0) return Unavailable(address, gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, freeaddrinfo);
  std::vector<SocketAddress> addresses;
  for (const addrinfo* info = found; info != nullptr; info = info->ai_next) {
    SocketAddress& added = addresses.emplace_back();
    std::memcpy(&added.storage, info->ai_addr, info->ai_addrlen);
    added.size = info->ai_addrlen;
  }
  return addresses;
}

void SetPort(int port, SocketAddress* address) {
  // IPv4 and IPv6 have it in the same place.
  reinterpret_cast<sockaddr_in&>(address->storage).sin_port = htons(static_cast<uint16_t>(port));
}

int BoundPort(int socket) {
  SocketAddress address;
  address.size = sizeof(address.storage);
  getsockname(socket, reinterpret_cast<sockaddr*>(&address.storage), &address.size);
  return ntohs(reinterpret_cast<const sockaddr_in&>(address.storage).sin_port);
}

/// A socket that listens, or -1 with errno.
int Listen(const SocketAddress& address, bool reuse_port, int peer_timeout_ms) {
  const int family = address.storage.ss_family;
  const int descriptor = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return -1;
  const auto set = [&](int level, int name, int value) {
    setsockopt(descriptor, level, name, &value, sizeof(value));
  };
  if (family != AF_UNIX) {  // connections inherit what is about them
    set(SOL_SOCKET, SO_REUSEADDR, 1);
    if (reuse_port) set(SOL_SOCKET, SO_REUSEPORT, 1);
    set(IPPROTO_TCP, TCP_NODELAY, 1);
    set(IPPROTO_TCP, TCP_USER_TIMEOUT, peer_timeout_ms);
  }
  const bool any =
      family == AF_INET6 &&
      IN6_IS_ADDR_UNSPECIFIED(&reinterpret_cast<const sockaddr_in6&>(address.storage).sin6_addr);
  if (family == AF_INET6) set(IPPROTO_IPV6, IPV6_V6ONLY, any ? 0 : 1);
  if (bind(descriptor, address.get(), address.size) == 0 && listen(descriptor, kBacklog) == 0) {
    return descriptor;
  }
  const int error = errno;
  close(descriptor);
  errno = error;
  return -1;
}

/// The inode of a socket in the file system; 0 if there is none.
ino_t SocketInode(const std::string& path) {
  struct stat status = {};
  return lstat(path.c_str(), &status) == 0 && S_ISSOCK(status.st_mode) ? status.st_ino : 0;
}

}  // namespace

ListeningSockets::ListeningSockets(ListeningSockets&& other) noexcept
    : address_(other.address_),
      descriptors_(std::exchange(other.descriptors_, {})),
      inode_(std::exchange(other.inode_, 0)) {}

ListeningSockets& ListeningSockets::operator=(ListeningSockets&& other) noexcept {
  std::swap(address_, other.address_);
  std::swap(descriptors_, other.descriptors_);
  std::swap(inode_, other.inode_);
  return *this;
}

absl::StatusOr<ListeningSockets> ListeningSockets::Open(const Address& address, bool reuse_port,
                                                        int peer_timeout_ms) {
  ListeningSockets sockets;
  sockets.address_ = address;
  std::vector<SocketAddress> addresses;
  if (address.is_unix()) {
    SocketAddress& added = addresses.emplace_back();
    auto& un = reinterpret_cast<sockaddr_un&>(added.storage);
    if (address.path.size() >= sizeof(un.sun_path)) {
      return Unavailable(address, "the path is too long");
    }
    un.sun_family = AF_UNIX;
    std::memcpy(un.sun_path, address.path.data(), address.path.size());
    added.size = sizeof(un);
    if (SocketInode(address.path) != 0) unlink(address.path.c_str());  // of a server before
  } else {
    absl::StatusOr<std::vector<SocketAddress>> resolved = Resolve(address);
    if (!resolved.ok()) return resolved.status();
    addresses = *std::move(resolved);
  }

  if (address.host == "0.0.0.0" || address.host == "::") {
    const int any = Listen(AnyIpv6(address.port), reuse_port, peer_timeout_ms);
    if (any >= 0) {
      sockets.descriptors_.push_back(any);
      sockets.address_.port = BoundPort(any);
      return sockets;
    }
    if (errno == EADDRINUSE) return Unavailable(address, std::strerror(errno));
  }
  for (SocketAddress& one : addresses) {
    if (!address.is_unix()) SetPort(sockets.address_.port, &one);
    const int descriptor = Listen(one, reuse_port, peer_timeout_ms);
    if (descriptor < 0) return Unavailable(address, std::strerror(errno));
    sockets.descriptors_.push_back(descriptor);
    if (address.is_unix()) {
      sockets.inode_ = SocketInode(address.path);
    } else {
      sockets.address_.port = BoundPort(descriptor);
    }
  }
  return sockets;
}

void ListeningSockets::Close() {
  if (inode_ != 0 && SocketInode(address_.path) == inode_) unlink(address_.path.c_str());
  inode_ = 0;
  for (const int descriptor : std::exchange(descriptors_, {})) close(descriptor);
}

}  // namespace winnow

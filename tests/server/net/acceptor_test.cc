#include "server/net/acceptor.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace winnow {
namespace {

constexpr int kPeerTimeoutMs = 10'000;

ListeningSockets MustOpen(const Address& address, bool reuse_port = false) {
  auto sockets = ListeningSockets::Open(address, reuse_port, kPeerTimeoutMs);
  EXPECT_EQ(sockets.status(), absl::OkStatus());
  return *std::move(sockets);
}

/// A client's socket.
class Client {
 public:
  explicit Client(int family = AF_INET) : socket_(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0)) {}
  ~Client() { close(socket_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  bool Connect(const Address& address) {
    if (address.is_unix()) {
      sockaddr_un un = {.sun_family = AF_UNIX, .sun_path = {}};
      std::memcpy(un.sun_path, address.path.data(), address.path.size());
      return connect(socket_, reinterpret_cast<const sockaddr*>(&un), sizeof(un)) == 0;
    }
    sockaddr_in in = {};
    in.sin_family = AF_INET;
    in.sin_port = htons(static_cast<uint16_t>(address.port));
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return connect(socket_, reinterpret_cast<const sockaddr*>(&in), sizeof(in)) == 0;
  }
  /// Waits for the peer to say something or close; true if it closed.
  bool IsClosed() {
    char byte;
    return recv(socket_, &byte, 1, 0) <= 0;
  }

 private:
  int socket_;
};

/// Keeps what it is given, and says "!" to each.
class Taker {
 public:
  ~Taker() { CloseAll(); }
  Acceptor::Callbacks callbacks() {
    return {.take =
                [this](int, int connection) {
                  EXPECT_EQ(send(connection, "!", 1, MSG_NOSIGNAL), 1);
                  const std::lock_guard lock(mutex_);
                  connections_.push_back(connection);
                },
            .lacking = [this] { ++lacking; }};
  }
  void CloseAll() {
    const std::lock_guard lock(mutex_);
    for (const int connection : std::exchange(connections_, {})) close(connection);
  }
  size_t count() {
    const std::lock_guard lock(mutex_);
    return connections_.size();
  }
  std::atomic<int> lacking = 0;

 private:
  std::mutex mutex_;
  std::vector<int> connections_;
};

TEST(AcceptorTest, TakesConnectionsUntilItIsStopped) {
  Taker taker;
  Acceptor acceptor(MustOpen({"127.0.0.1", 0, ""}), 1 << 20, taker.callbacks());
  ASSERT_GT(acceptor.address().port, 0);
  Client first, second, third;
  ASSERT_TRUE(first.Connect(acceptor.address()));
  EXPECT_FALSE(first.IsClosed());
  ASSERT_TRUE(second.Connect(acceptor.address()));
  acceptor.Stop();
  EXPECT_FALSE(second.IsClosed()) << "it had connected by then";
  EXPECT_FALSE(third.Connect(acceptor.address()));
  EXPECT_EQ(taker.count(), 2u);
  EXPECT_EQ(taker.lacking, 0);
}

TEST(AcceptorTest, ClosesConnectionsWhoseDescriptorsAreTooHigh) {
  Taker taker;
  Acceptor acceptor(MustOpen({"127.0.0.1", 0, ""}), 0, taker.callbacks());
  Client client;
  ASSERT_TRUE(client.Connect(acceptor.address()));
  EXPECT_TRUE(client.IsClosed());
  EXPECT_EQ(taker.lacking, 1);
  EXPECT_EQ(taker.count(), 0u);
}

TEST(AcceptorTest, GoesOnOnceThereAreDescriptorsAgain) {
  Taker taker;
  Acceptor acceptor(MustOpen({"127.0.0.1", 0, ""}), 1 << 20, taker.callbacks());
  Client early, late;
  rlimit before = {};
  getrlimit(RLIMIT_NOFILE, &before);
  rlimit few = before;
  few.rlim_cur = 64;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  std::vector<int> others;
  int other;
  while ((other = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0) others.push_back(other);
  ASSERT_TRUE(early.Connect(acceptor.address()));
  while (taker.lacking == 0) std::this_thread::yield();
  EXPECT_EQ(taker.count(), 0u);
  for (const int descriptor : others) close(descriptor);
  EXPECT_FALSE(early.IsClosed());
  ASSERT_TRUE(late.Connect(acceptor.address()));
  EXPECT_FALSE(late.IsClosed());
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

TEST(ListeningSocketsTest, EveryAddressOfAHostHasTheSamePort) {
  const ListeningSockets sockets = MustOpen({"localhost", 0, ""});
  EXPECT_GT(sockets.address().port, 0);
  EXPECT_EQ(sockets.address().host, "localhost");
  EXPECT_GE(sockets.descriptors().size(), 1u);
}

TEST(ListeningSocketsTest, AllAddressesAreOfBothFamilies) {
  Taker taker;
  Acceptor acceptor(MustOpen({"0.0.0.0", 0, ""}), 1 << 20, taker.callbacks());
  Client client;
  ASSERT_TRUE(client.Connect(acceptor.address()));
  EXPECT_FALSE(client.IsClosed());
}

TEST(ListeningSocketsTest, AnAddressInUseCannotBeHadUnlessItIsShared) {
  const ListeningSockets sockets = MustOpen({"127.0.0.1", 0, ""});
  const absl::Status status =
      ListeningSockets::Open(sockets.address(), /*reuse_port=*/true, kPeerTimeoutMs).status();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_EQ(std::string(status.message()),
            "can't listen on " + sockets.address().Text() + ": Address already in use");
  const ListeningSockets shared = MustOpen({"127.0.0.1", 0, ""}, /*reuse_port=*/true);
  MustOpen(shared.address(), /*reuse_port=*/true);
  EXPECT_TRUE(absl::IsUnavailable(
      ListeningSockets::Open({"no.such.host.invalid", 1, ""}, false, kPeerTimeoutMs).status()));
}

TEST(ListeningSocketsTest, ASocketInTheFileSystemIsThereWhileItListens) {
  const std::string path = std::filesystem::path(testing::TempDir()) / "winnow_acceptor_test";
  Taker taker;
  {
    Acceptor acceptor(MustOpen({"", 0, path}), 1 << 20, taker.callbacks());
    Client client(AF_UNIX);
    ASSERT_TRUE(client.Connect(acceptor.address()));
    EXPECT_FALSE(client.IsClosed());
    // A successor takes the path over, and its predecessor leaves it alone.
    Acceptor successor(MustOpen({"", 0, path}), 1 << 20, taker.callbacks());
    acceptor.Stop();
    Client other(AF_UNIX);
    ASSERT_TRUE(other.Connect(successor.address()));
    EXPECT_FALSE(other.IsClosed());
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_TRUE(absl::IsUnavailable(
      ListeningSockets::Open({"", 0, std::string(200, 'x')}, false, kPeerTimeoutMs).status()));
}

}  // namespace
}  // namespace winnow

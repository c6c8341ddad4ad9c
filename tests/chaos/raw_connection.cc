#include "tests/chaos/raw_connection.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "tests/chaos/tokens.h"

namespace winnow {
namespace {

/// An integer with a prefix of 7 bits (RFC 7541, 5.1).
std::string HpackInteger(size_t value) {
  if (value < 127) return {static_cast<char>(value)};
  std::string bytes = {127};
  for (value -= 127; value >= 128; value /= 128) {
    bytes.push_back(static_cast<char>(value % 128 + 128));
  }
  bytes.push_back(static_cast<char>(value));
  return bytes;
}

}  // namespace

RawConnection::RawConnection(const std::string& address) {
  const std::vector<std::string> parts = absl::StrSplit(address, ':');
  int port = 0;
  if (parts.size() != 2 || !absl::SimpleAtoi(parts[1], &port)) return;
  sockaddr_in peer = {};
  peer.sin_family = AF_INET;
  peer.sin_port = htons(static_cast<uint16_t>(port));
  inet_pton(AF_INET, parts[0].c_str(), &peer.sin_addr);
  socket_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const timeval limit = {.tv_sec = 5, .tv_usec = 0};
  setsockopt(socket_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
  if (connect(socket_, reinterpret_cast<const sockaddr*>(&peer), sizeof(peer)) != 0) {
    close(socket_);
    socket_ = -1;
  }
}

RawConnection::~RawConnection() {
  if (socket_ >= 0) close(socket_);
}

bool RawConnection::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

size_t RawConnection::Receive(size_t bytes, absl::Duration limit) {
  const absl::Time end = absl::Now() + limit;
  std::array<char, 4096> buffer;
  size_t received = 0;
  while (received < bytes) {
    pollfd waiting = {.fd = socket_, .events = POLLIN, .revents = 0};
    const int64_t left_ms = absl::ToInt64Milliseconds(end - absl::Now());
    if (left_ms <= 0 || poll(&waiting, 1, static_cast<int>(left_ms)) <= 0) break;
    const ssize_t count = recv(socket_, buffer.data(), buffer.size(), 0);
    if (count <= 0) break;
    received += static_cast<size_t>(count);
  }
  return received;
}

void RawConnection::Reset() {
  if (socket_ < 0) return;
  const linger at_once = {.l_onoff = 1, .l_linger = 0};
  setsockopt(socket_, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  close(socket_);
  socket_ = -1;
}

std::string Http2Opening() {
  return "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + MakeFrame(kSettingsFrame, 0, 0, "");
}

std::string MakeFrame(uint8_t type, uint8_t flags, uint32_t stream, std::string_view payload) {
  std::string frame;
  const auto put = [&frame](size_t value, int bytes) {
    for (int i = bytes - 1; i >= 0; --i) frame.push_back(static_cast<char>(value >> (8 * i)));
  };
  put(payload.size(), 3);
  put(type, 1);
  put(flags, 1);
  put(stream, 4);
  return frame.append(payload);
}

std::string HeaderField(std::string_view name, std::string_view value) {
  std::string field(1, '\0');
  field.append(HpackInteger(name.size())).append(name);
  return field.append(HpackInteger(value.size())).append(value);
}

std::string CallFields(std::string_view path) {
  return HeaderField(":method", "POST") + HeaderField(":scheme", "http") +
         HeaderField(":path", path) + HeaderField(":authority", "chaos") +
         HeaderField("te", "trailers") + HeaderField("content-type", "application/grpc") +
         HeaderField("authorization", absl::StrCat("Bearer ", kBadToken));
}

std::string GrpcMessage(std::string_view message) {
  std::string framed(1, '\0');
  for (int shift = 24; shift >= 0; shift -= 8) {
    framed.push_back(static_cast<char>(message.size() >> shift));
  }
  return framed.append(message);
}

std::string MakeCall(uint32_t stream, std::string_view path, std::string_view message) {
  return MakeFrame(kHeadersFrame, kEndHeaders, stream, CallFields(path)) +
         MakeFrame(kDataFrame, kEndStream, stream, GrpcMessage(message));
}

}  // namespace winnow

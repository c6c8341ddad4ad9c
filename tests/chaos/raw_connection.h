#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/time/time.h"

namespace winnow {

/// A TCP connection without a library between, for clients that break HTTP/2's rules or vanish.
class RawConnection {
 public:
  /// Connects to "A.B.C.D:PORT"; `connected()` tells whether that worked.
  explicit RawConnection(const std::string& address);
  /// Closes in order, unless Reset was called.
  ~RawConnection();
  RawConnection(const RawConnection&) = delete;
  RawConnection& operator=(const RawConnection&) = delete;

  bool connected() const { return socket_ >= 0; }
  /// False when the peer has closed or takes nothing for some seconds.
  bool Send(std::string_view bytes);
  /// Reads until there are `bytes`, the peer closes or `limit` has passed; returns how many came.
  size_t Receive(size_t bytes, absl::Duration limit);
  /// Ends the connection with a TCP reset, as the kernel does for a process that was killed with
  /// data unread.
  void Reset();

 private:
  int socket_ = -1;
};

// Pieces of HTTP/2 (RFC 9113), as bytes to send.

enum Http2Frame : uint8_t {
  kDataFrame = 0,
  kHeadersFrame = 1,
  kResetFrame = 3,
  kSettingsFrame = 4,
  kPingFrame = 6,
  kContinuationFrame = 9,
};
constexpr uint8_t kEndStream = 1;
constexpr uint8_t kEndHeaders = 4;

/// What a client sends first: the preface and empty settings.
std::string Http2Opening();
std::string MakeFrame(uint8_t type, uint8_t flags, uint32_t stream, std::string_view payload);
/// A header field, uncompressed and kept out of the peer's table.
std::string HeaderField(std::string_view name, std::string_view value);
/// The header fields of a gRPC call with the bad clients' token.
std::string CallFields(std::string_view path);
/// A message as gRPC frames it within DATA.
std::string GrpcMessage(std::string_view message);
/// A whole unary or server-streaming call.
std::string MakeCall(uint32_t stream, std::string_view path, std::string_view message);

}  // namespace winnow

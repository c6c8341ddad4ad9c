#include "server/net/address.h"

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace winnow {
namespace {

constexpr char kUnix[] = "unix:";
constexpr int kMaxPort = 65535;

bool ParsePort(const std::string& text, int* port) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos &&
         absl::SimpleAtoi(text, port) && *port <= kMaxPort;
}

}  // namespace

bool Address::IsLoopback() const {
  return is_unix() || host == "localhost" || host == "::1" || absl::StartsWith(host, "127.");
}

std::string Address::Text() const {
  if (is_unix()) return kUnix + path;
  const bool brackets = host.find(':') != std::string::npos;
  return brackets ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

absl::StatusOr<Address> ParseAddress(const std::string& text) {
  const auto error = [&](const char* rule) {
    return absl::InvalidArgumentError(absl::StrCat(rule, ", is \"", text, "\""));
  };
  Address address;
  if (absl::StartsWith(text, kUnix)) {
    address.path = text.substr(sizeof(kUnix) - 1);
    if (absl::StartsWith(address.path, "///")) address.path.erase(0, 2);  // as in a URI
    if (address.path.empty()) return error("must be unix:PATH");
    return address;
  }
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || !ParsePort(text.substr(colon + 1), &address.port)) {
    return error("must be HOST:PORT with a port from 0 to 65535, or unix:PATH");
  }
  address.host = text.substr(0, colon);
  if (absl::StartsWith(address.host, "[") && absl::EndsWith(address.host, "]")) {
    address.host = address.host.substr(1, address.host.size() - 2);
  } else if (address.host.find(':') != std::string::npos) {
    return error("must be [ADDRESS]:PORT where an address has colons");
  }
  if (address.host.empty()) return error("must be HOST:PORT; 0.0.0.0 is every address");
  return address;
}

}  // namespace winnow

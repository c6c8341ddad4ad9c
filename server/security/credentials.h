#pragma once

#include <string>
#include <vector>

namespace winnow {

/// What a call brings along to show who makes it.
struct Credentials {
  std::vector<std::string> authorization;  ///< values of its authorization header; should be one
  std::string certificate_name;  ///< in the client's certificate, which was verified; empty: none
  std::string peer_address;      ///< without the port, such as "ipv4:192.0.2.7"
};

}  // namespace winnow

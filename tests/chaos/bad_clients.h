#pragma once

#include <random>
#include <span>
#include <string>

namespace winnow {

/// One way in which clients misbehave. Each call is one client with connections of its own.
struct BadClient {
  const char* name;
  /// Returns what the server should not have answered, or nothing.
  std::string (*act)(const std::string& address, std::mt19937& random);
  bool holds_on;  ///< takes seconds, in which it keeps the server waiting
};

/// All of them.
std::span<const BadClient> BadClients();

}  // namespace winnow

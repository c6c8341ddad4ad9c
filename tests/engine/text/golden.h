#pragma once

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace winnow {

/// A file of tests/golden.
inline nlohmann::json LoadGolden(const std::string& name) {
  return nlohmann::json::parse(std::ifstream("tests/golden/" + name));
}

}  // namespace winnow

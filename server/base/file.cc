#include "server/base/file.h"

#include <fstream>
#include <sstream>
#include <utility>

#include "absl/status/status.h"

namespace winnow {

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (file.peek() != std::ifstream::traits_type::eof()) text << file.rdbuf();
  if (!file) return absl::NotFoundError("can't read the file " + path);
  return std::move(text).str();
}

}  // namespace winnow

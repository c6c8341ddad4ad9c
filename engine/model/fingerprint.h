#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "engine/model/checkpoint.h"

namespace winnow {

/// FNV-1a, 64 bits, as 16 hexadecimal digits: tells texts and weights apart, resists no attacker.
/// Parts are added one after the other.
class ContentHash {
 public:
  void Add(std::span<const std::byte> bytes);
  void Add(std::string_view text) { Add(std::as_bytes(std::span(text))); }
  std::string Hex() const;

 private:
  uint64_t hash_ = 0xcbf29ce484222325;
};

/// Tells models apart whose keys and queries differ: a hash over shapes and parts of the contents
/// of what makes them, and over RoPE. Where all of that is floats, it is of their numbers, so that
/// files of different kinds and types of one model share it; otherwise it is of what the file
/// stores. 16 hexadecimal digits.
std::string ModelFingerprint(const Checkpoint& checkpoint);

}  // namespace winnow

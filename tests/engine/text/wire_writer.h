#pragma once

#include <bit>
#include <cstdint>
#include <string>
#include <string_view>

namespace winnow {

/// Writes messages in protobuf's wire format.
class WireWriter {
 public:
  WireWriter& Varint(uint32_t field, uint64_t value) {
    return AppendVarint(field << 3).AppendVarint(value);
  }
  WireWriter& Float(uint32_t field, float value) {
    AppendVarint(field << 3 | 5);
    const auto bits = std::bit_cast<uint32_t>(value);
    for (int shift = 0; shift < 32; shift += 8) {
      bytes_.push_back(static_cast<char>(bits >> shift & 0xFF));
    }
    return *this;
  }
  WireWriter& Bytes(uint32_t field, std::string_view value) {
    return AppendVarint(field << 3 | 2).AppendVarint(value.size()).Raw(value);
  }
  WireWriter& Message(uint32_t field, const WireWriter& message) {
    return Bytes(field, message.bytes_);
  }
  WireWriter& Raw(std::string_view bytes) {
    bytes_.append(bytes);
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  WireWriter& AppendVarint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_.push_back(static_cast<char>(value | 0x80));
    bytes_.push_back(static_cast<char>(value));
    return *this;
  }

  std::string bytes_;
};

}  // namespace winnow

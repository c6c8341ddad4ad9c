#include "engine/text/wire_reader.h"

#include <bit>

namespace winnow {

bool WireReader::Next() {
  if (!ok_ || rest_.empty()) return false;
  uint64_t tag;
  if (!ReadVarint(tag) || tag >> 3 == 0 || tag > UINT32_MAX) return Fail();
  field_ = static_cast<uint32_t>(tag >> 3);
  switch (tag & 7) {
    case 0:
      type_ = Type::kVarint;
      return ReadVarint(value_) || Fail();
    case 1:
      type_ = Type::kFixed64;
      return ReadFixed(8) || Fail();
    case 2: {
      type_ = Type::kBytes;
      uint64_t size;
      if (!ReadVarint(size) || size > rest_.size()) return Fail();
      bytes_ = rest_.substr(0, size);
      rest_.remove_prefix(size);
      return true;
    }
    case 5:
      type_ = Type::kFixed32;
      return ReadFixed(4) || Fail();
    default:
      return Fail();  // groups, which nobody writes any more
  }
}

float WireReader::Float() const {
  return type_ == Type::kFixed32 ? std::bit_cast<float>(static_cast<uint32_t>(value_)) : 0;
}

bool WireReader::ReadVarint(uint64_t& value) {
  value = 0;
  for (int shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(rest_[0]);
    rest_.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

bool WireReader::ReadFixed(size_t bytes) {
  if (rest_.size() < bytes) return false;
  value_ = 0;
  for (size_t i = 0; i < bytes; ++i) {
    value_ |= static_cast<uint64_t>(static_cast<unsigned char>(rest_[i])) << (8 * i);
  }
  rest_.remove_prefix(bytes);
  return true;
}

bool WireReader::Fail() {
  ok_ = false;
  return false;
}

}  // namespace winnow

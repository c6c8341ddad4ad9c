#pragma once

#include <cstdint>
#include <string_view>

namespace winnow {

/// Reads the fields of a message in protobuf's wire format
/// (https://protobuf.dev/programming-guides/encoding/), from bytes of anybody's.
class WireReader {
 public:
  enum class Type : uint8_t { kVarint, kFixed64, kBytes, kFixed32 };

  /// REQUIRES: `message` outlives this object.
  explicit WireReader(std::string_view message) : rest_(message) {}

  /// Goes to the next field. False at the end of the message, and where it is none.
  bool Next();
  /// Whether what has been read was well-formed.
  bool ok() const { return ok_; }

  uint32_t field() const { return field_; }
  Type type() const { return type_; }

  /// The field's value; 0 or empty if it has another type.
  uint64_t Varint() const { return type_ == Type::kVarint ? value_ : 0; }
  float Float() const;
  std::string_view Bytes() const { return type_ == Type::kBytes ? bytes_ : std::string_view(); }

 private:
  bool ReadVarint(uint64_t& value);
  bool ReadFixed(size_t bytes);
  bool Fail();

  std::string_view rest_;
  bool ok_ = true;
  uint32_t field_ = 0;
  Type type_ = Type::kVarint;
  uint64_t value_ = 0;  ///< of numbers
  std::string_view bytes_;
};

}  // namespace winnow

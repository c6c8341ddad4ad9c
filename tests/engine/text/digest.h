#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

namespace winnow {

/// FNV-1a of rows of numbers, as make_tokenizer_json.py computes it.
class Digest {
 public:
  template <typename Numbers>
  void Add(const Numbers& row) {
    for (const auto number : row) AddNumber(static_cast<uint32_t>(number));
    AddNumber(0xFFFFFFFF);
  }
  std::string Text() const {
    char text[17];
    std::snprintf(text, sizeof(text), "%016lx", static_cast<unsigned long>(value_));
    return text;
  }

 private:
  void AddNumber(uint32_t number) {
    for (int shift = 0; shift < 32; shift += 8) {
      value_ = (value_ ^ (number >> shift & 0xFF)) * 0x100000001B3;
    }
  }

  uint64_t value_ = 0xCBF29CE484222325;
};

}  // namespace winnow

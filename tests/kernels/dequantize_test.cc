#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/data_type.h"
#include "nlohmann/json.hpp"
#include "tests/kernels/reference.h"

namespace winnow {
namespace {

using test::kAllTypes;

std::vector<std::byte> FromHex(const std::string& hex) {
  std::vector<std::byte> bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

/// The golden case of a type: stored bytes and the fp32 bit patterns of the gguf Python package.
nlohmann::json GoldenCase(DataType type) {
  static const nlohmann::json golden =
      nlohmann::json::parse(std::ifstream("tests/golden/dequantize.json"));
  for (const nlohmann::json& golden_case : golden.at("cases")) {
    if (golden_case.at("type") == DataTypeName(type)) return golden_case;
  }
  ADD_FAILURE() << "no golden case for " << DataTypeName(type);
  return {};
}

class DequantizeTest : public testing::TestWithParam<DataType> {};

TEST_P(DequantizeTest, MatchesTheReferenceToTheLastBit) {
  const nlohmann::json golden = GoldenCase(GetParam());
  const std::vector<std::byte> stored = FromHex(golden.at("stored_hex"));
  const std::vector<std::byte> expected = FromHex(golden.at("fp32_hex"));
  const int64_t columns = golden.at("columns");
  ASSERT_EQ(static_cast<int64_t>(expected.size()), columns * 4);

  std::vector<float> values(columns);
  Dequantize(GetParam(), stored.data(), columns, values.data());
  for (int64_t i = 0; i < columns; ++i) {
    uint32_t actual_bits = 0;
    uint32_t expected_bits = 0;
    std::memcpy(&actual_bits, &values[i], 4);
    std::memcpy(&expected_bits, &expected[i * 4], 4);
    ASSERT_EQ(actual_bits, expected_bits) << "element " << i << ": " << values[i];
  }
}

TEST_P(DequantizeTest, RowBytesAreThoseOfTheStoredRow) {
  const nlohmann::json golden = GoldenCase(GetParam());
  EXPECT_EQ(RowBytes(GetParam(), golden.at("columns")),
            static_cast<int64_t>(golden.at("stored_hex").get<std::string>().size() / 2));
}

INSTANTIATE_TEST_SUITE_P(Types, DequantizeTest, testing::ValuesIn(kAllTypes),
                         [](const testing::TestParamInfo<DataType>& info) {
                           return DataTypeName(info.param);
                         });

}  // namespace
}  // namespace winnow

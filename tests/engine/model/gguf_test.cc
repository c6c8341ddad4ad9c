#include "engine/model/gguf.h"

#include <cmath>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/model/gguf_writer.h"

namespace winnow {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::unique_ptr<GgufFile> OpenOrDie(const GgufWriter& writer) {
  const TemporaryFile file(writer.Bytes());  // the mapping outlives the name
  absl::StatusOr<std::unique_ptr<GgufFile>> opened = GgufFile::Open(file.path());
  if (!opened.ok()) throw std::runtime_error(opened.status().ToString());
  return *std::move(opened);
}

TEST(GgufFileTest, ScalarMetadataOfEveryTypeIsReadWidened) {
  GgufWriter writer;
  writer.Raw("u8", kGgufUint8, ByteWriter().Put<uint8_t>(200));
  writer.Raw("i8", kGgufInt8, ByteWriter().Put<int8_t>(-100));
  writer.Raw("u16", kGgufUint16, ByteWriter().Put<uint16_t>(60000));
  writer.Raw("i16", kGgufInt16, ByteWriter().Put<int16_t>(-30000));
  writer.Raw("u32", kGgufUint32, ByteWriter().Put<uint32_t>(4000000000u));
  writer.Raw("i32", kGgufInt32, ByteWriter().Put<int32_t>(-2000000000));
  writer.Raw("u64", kGgufUint64, ByteWriter().Put<uint64_t>(1ull << 63));
  writer.Raw("i64", kGgufInt64, ByteWriter().Put<int64_t>(std::numeric_limits<int64_t>::min()));
  writer.Raw("f64", kGgufFloat64, ByteWriter().Put(0.1));
  writer.Float32("f32", 0.25f).Bool("yes", true).Bool("no", false).String("text", "hello");
  const auto file = OpenOrDie(writer);

  EXPECT_EQ(file->GetInt("u8").value(), 200);
  EXPECT_EQ(file->GetInt("i8").value(), -100);
  EXPECT_EQ(file->GetInt("u16").value(), 60000);
  EXPECT_EQ(file->GetInt("i16").value(), -30000);
  EXPECT_EQ(file->GetInt("u32").value(), 4000000000);
  EXPECT_EQ(file->GetInt("i32").value(), -2000000000);
  EXPECT_EQ(file->GetInt("i64").value(), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(file->GetFloat("f64").value(), 0.1);
  EXPECT_EQ(file->GetFloat("f32").value(), 0.25);
  EXPECT_EQ(file->GetFloat("i8").value(), -100);
  EXPECT_EQ(file->GetFloat("u64").value(), std::ldexp(1.0, 63));
  EXPECT_TRUE(file->GetBool("yes").value());
  EXPECT_FALSE(file->GetBool("no").value());
  EXPECT_EQ(file->GetString("text").value(), "hello");
  EXPECT_EQ(file->metadata().size(), 13u);
}

TEST(GgufFileTest, ArraysAreReadWidened) {
  GgufWriter writer;
  writer.Strings("strings", {"a", "", std::string("\0\xff", 2)});
  writer.Array<uint8_t>("u8", kGgufUint8, {0, 255});
  writer.Array<int16_t>("i16", kGgufInt16, {-1, 1});
  writer.Array<uint64_t>("u64", kGgufUint64, {uint64_t{1} << 62});
  writer.Array<uint8_t>("bools", kGgufBool, {0, 1});
  writer.Array<float>("f32", kGgufFloat32, {0.5f, -2.0f});
  writer.Array<double>("f64", kGgufFloat64, {});
  const auto file = OpenOrDie(writer);

  EXPECT_THAT(*file->GetStrings("strings").value(), ElementsAre("a", "", std::string("\0\xff", 2)));
  EXPECT_THAT(*file->GetInts("u8").value(), ElementsAre(0, 255));
  EXPECT_THAT(*file->GetInts("i16").value(), ElementsAre(-1, 1));
  EXPECT_THAT(*file->GetInts("u64").value(), ElementsAre(int64_t{1} << 62));
  EXPECT_THAT(*file->GetInts("bools").value(), ElementsAre(0, 1));
  EXPECT_THAT(*file->GetFloats("f32").value(), ElementsAre(0.5, -2.0));
  EXPECT_THAT(*file->GetFloats("f64").value(), ElementsAre());
}

TEST(GgufFileTest, GettersTellAMissingKeyFromOneOfAnotherType) {
  GgufWriter writer;
  writer.String("text", "1").Uint32("number", 1).Float32("fraction", 1);
  writer.Raw("huge", kGgufUint64, ByteWriter().Put<uint64_t>(1ull << 63));
  const auto file = OpenOrDie(writer);

  EXPECT_EQ(file->GetInt("absent").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(file->GetStrings("absent").status().message()),
              HasSubstr("metadata key absent is missing"));
  const auto expect_wrong_type = [](const absl::Status& status, const char* message) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  };
  expect_wrong_type(file->GetInt("text").status(), "text is not an integer");
  expect_wrong_type(file->GetInt("fraction").status(), "fraction is not an integer");
  expect_wrong_type(file->GetInt("huge").status(), "huge is not an integer below 2^63");
  expect_wrong_type(file->GetFloat("text").status(), "text is not a number");
  expect_wrong_type(file->GetBool("number").status(), "number is not a boolean");
  expect_wrong_type(file->GetString("number").status(), "number is not a string");
  expect_wrong_type(file->GetStrings("text").status(), "text is not an array of strings");
  expect_wrong_type(file->GetInts("number").status(), "number is not an array of integers");
  expect_wrong_type(file->GetFloats("number").status(), "number is not an array of floats");
}

TEST(GgufFileTest, TensorsPointAtTheirAlignedData) {
  std::vector<float> values(6);
  std::iota(values.begin(), values.end(), 1.0f);
  const std::vector<std::byte> block(34, std::byte{7});
  GgufWriter writer;
  writer.alignment = 64;
  writer.Uint32("general.alignment", 64);
  writer.TensorF32("matrix", {2, 3}, values).Tensor("quantised", {1, 32}, kGgufQ8_0, block);
  const auto file = OpenOrDie(writer);

  ASSERT_EQ(file->tensors().size(), 2u);
  const GgufFile::Tensor* matrix = file->FindTensor("matrix");
  ASSERT_NE(matrix, nullptr);
  EXPECT_EQ(matrix->type, DataType::kF32);
  EXPECT_THAT(matrix->shape, ElementsAre(2, 3));
  ASSERT_EQ(matrix->data.size(), 24u);
  EXPECT_EQ(std::memcmp(matrix->data.data(), values.data(), 24), 0);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(matrix->data.data()) % 64, 0u);

  const GgufFile::Tensor* quantised = file->FindTensor("quantised");
  ASSERT_NE(quantised, nullptr);
  EXPECT_EQ(quantised->type, DataType::kQ8_0);
  EXPECT_THAT(quantised->data, testing::ElementsAreArray(block));
  EXPECT_EQ(file->FindTensor("absent"), nullptr);

  file->ReleasePages();
  EXPECT_EQ(std::memcmp(matrix->data.data(), values.data(), 24), 0);
}

TEST(GgufFileTest, OpenErrorsNameThePath) {
  const auto missing = GgufFile::Open("/nonexistent/model.gguf").status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("/nonexistent/model.gguf"));

  const auto directory = GgufFile::Open("/").status();
  EXPECT_EQ(directory.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(directory.message(), "/ is not a regular file");

  const TemporaryFile empty({});
  EXPECT_EQ(GgufFile::Open(empty.path()).status().message(), empty.path() + " is empty");

  const std::string text = "this is a text file, not a model";
  const TemporaryFile other(std::as_bytes(std::span(text)));
  EXPECT_EQ(GgufFile::Open(other.path()).status().message(),
            other.path() + " is not a GGUF file: it does not begin with \"GGUF\"");
}

}  // namespace
}  // namespace winnow

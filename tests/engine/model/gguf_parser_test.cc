#include "engine/model/gguf_parser.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/model/gguf_writer.h"
#include "tests/engine/model/largest_allocation.h"

namespace winnow {
namespace {

using testing::HasSubstr;

constexpr uint64_t kHuge = std::numeric_limits<uint64_t>::max();

/// Something of everything: scalars, arrays, a vocabulary, tensors with padding between them.
GgufWriter SmallModel() {
  GgufWriter writer;
  writer.String("general.architecture", "llama").Uint32("llama.block_count", 1);
  writer.Float32("llama.epsilon", 1e-5f).Bool("tokenizer.add_bos", true);
  writer.Strings("tokenizer.tokens", {"<s>", "a", "b", "ab"});
  writer.Array<float>("tokenizer.scores", kGgufFloat32, {0, -1, -2, -3});
  writer.Array<int32_t>("tokenizer.types", kGgufInt32, {3, 1, 1, 1});
  writer.TensorF32("norm", {3}, {1, 2, 3});
  writer.Tensor("embedding", {2, 32}, kGgufQ8_0, std::vector<std::byte>(68, std::byte{5}));
  writer.TensorF32("output", {2, 2, 2}, {1, 2, 3, 4, 5, 6, 7, 8});
  return writer;
}

/// Parses a copy that ends exactly where its heap block ends, reads what was found, and checks the
/// bound on memory. Returns the status.
absl::Status ParseSafely(std::span<const std::byte> bytes) {
  const std::vector<std::byte> file(bytes.begin(), bytes.end());
  largest_allocation = 0;
  const absl::StatusOr<GgufContents> contents = ParseGguf(file);
  EXPECT_LE(largest_allocation, 8 * file.size() + 4096);
  if (!contents.ok()) return contents.status();
  for (const GgufFile::Tensor& tensor : contents->tensors) {
    EXPECT_GE(tensor.data.data(), file.data());
    EXPECT_LE(tensor.data.data() + tensor.data.size(), file.data() + file.size());
    int64_t elements = 1;
    for (const int64_t size : tensor.shape) elements *= size;
    EXPECT_EQ(static_cast<int64_t>(tensor.data.size()), RowBytes(tensor.type, elements));
  }
  return absl::OkStatus();
}

TEST(GgufParserTest, EveryTruncationIsAnError) {
  const std::vector<std::byte> file = SmallModel().Bytes();
  ASSERT_TRUE(ParseSafely(file).ok());
  for (size_t bytes = 0; bytes < file.size(); ++bytes) {
    const absl::Status status = ParseSafely(std::span(file).first(bytes));
    ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << "cut at " << bytes;
  }
}

TEST(GgufParserTest, TruncationThatCutsOnlyPaddingIsNone) {
  GgufWriter writer = SmallModel();
  const size_t used = writer.Bytes().size();
  std::vector<std::byte> padded = writer.Bytes();
  padded.resize(used + 31);
  for (size_t bytes = used; bytes <= padded.size(); ++bytes) {
    ASSERT_TRUE(ParseSafely(std::span(padded).first(bytes)).ok()) << "cut at " << bytes;
  }
}

TEST(GgufParserTest, RandomMutationsNeverCrashNorAllocateMuch) {
  const std::vector<std::byte> original = SmallModel().Bytes();
  std::mt19937_64 random(20240607);
  int accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::byte> file = original;
    const int mutations = 1 + static_cast<int>(random() % 8);
    for (int i = 0; i < mutations; ++i) file[random() % file.size()] = std::byte(random() & 0xff);
    if (random() % 4 == 0) file.resize(random() % file.size());
    accepted += ParseSafely(file).ok() ? 1 : 0;
  }
  // Changed text and data go unnoticed: the mutations do reach past the header.
  EXPECT_GT(accepted, 0);
}

TEST(GgufParserTest, ExtremeValuesInEveryFieldNeverCrashNorAllocateMuch) {
  const std::vector<std::byte> original = SmallModel().Bytes();
  const uint64_t extremes[] = {0,
                               1,
                               0x7f,
                               0xff,
                               0xffff,
                               0x7fffffff,
                               0xffffffff,
                               uint64_t{1} << 40,
                               uint64_t{1} << 62,
                               (uint64_t{1} << 63) - 1,
                               uint64_t{1} << 63,
                               kHuge - 31,
                               kHuge};
  for (size_t at = 0; at + 8 <= original.size(); ++at) {
    for (const uint64_t extreme : extremes) {
      for (const size_t width : {4, 8}) {
        std::vector<std::byte> file = original;
        std::memcpy(file.data() + at, &extreme, width);
        (void)ParseSafely(file);
      }
    }
  }
}

struct HostileCase {
  const char* name;
  std::function<GgufWriter()> write;
  const char* message;
};

GgufWriter WithInfo(std::string_view name, const std::vector<uint64_t>& shape, uint32_t type,
                    uint64_t offset) {
  GgufWriter writer;
  writer.TensorInfo(name, shape, type, offset);
  writer.TensorF32("filler", {8}, std::vector<float>(8));
  return writer;
}

const HostileCase kHostileCases[] = {
    {"OldVersion",
     [] {
       GgufWriter writer;
       writer.version = 2;
       return writer;
     },
     "is GGUF version 2; only version 3 is supported"},
    {"BigEndian",
     [] {
       GgufWriter writer;
       writer.version = 3u << 24;
       return writer;
     },
     "is a big-endian GGUF file"},
    {"TensorCount",
     [] {
       GgufWriter writer;
       writer.extra_tensors = kHuge;
       return writer;
     },
     "claims 18446744073709551615 tensors, more than its 0 bytes after the header hold"},
    {"MetadataCount",
     [] {
       GgufWriter writer;
       writer.extra_metadata = uint64_t{1} << 40;
       return writer;
     },
     "claims 1099511627776 metadata entries"},
    {"StringLength",
     [] { return GgufWriter().Raw("k", kGgufString, ByteWriter().Put<uint64_t>(kHuge)); },
     "has a string of 18446744073709551615 bytes in the metadata; the limit is 16777216"},
    {"StringPastTheEnd",
     [] { return GgufWriter().Raw("k", kGgufString, ByteWriter().Put<uint64_t>(1000)); },
     "is truncated: it ends at byte 45 within the metadata"},
    {"KeyLength", [] { return GgufWriter().Uint32(std::string(70000, 'k'), 1); },
     "has a key of 70000 bytes in the metadata; the limit is 65535"},
    {"EmptyKey", [] { return GgufWriter().Uint32("", 1); },
     "has an empty or unprintable key: metadata entry 0"},
    {"UnprintableKey", [] { return GgufWriter().Uint32("a\nb", 1); },
     "has an empty or unprintable key: metadata entry 0"},
    {"KeyTwice", [] { return GgufWriter().Uint32("k", 1).Uint32("k", 2); }, "has the key k twice"},
    {"ValueType", [] { return GgufWriter().Raw("k", 13, ByteWriter().Put<uint64_t>(0)); },
     "has a value of the unknown type 13 under k"},
    {"Boolean", [] { return GgufWriter().Raw("k", kGgufBool, ByteWriter().Put<uint8_t>(2)); },
     "has the boolean 2 under k"},
    {"ArrayLimit",
     [] {
       return GgufWriter().Raw("k", kGgufArray,
                               ByteWriter().Put<uint32_t>(kGgufUint8).Put<uint64_t>(kHuge));
     },
     "has an array of 18446744073709551615 elements under k; the limit is 16777216"},
    {"ArrayPastTheEnd",
     [] {
       return GgufWriter().Raw("k", kGgufArray,
                               ByteWriter().Put<uint32_t>(kGgufString).Put<uint64_t>(1 << 20));
     },
     "the array k claims 1048576 elements, more than the rest of the file holds"},
    {"ArrayOfArrays",
     [] {
       return GgufWriter().Raw(
           "k", kGgufArray,
           ByteWriter().Put<uint32_t>(kGgufArray).Put<uint64_t>(1).Put<uint64_t>(0));
     },
     "has an array of arrays under k, which is not supported"},
    {"ArrayType",
     [] {
       return GgufWriter().Raw("k", kGgufArray,
                               ByteWriter().Put<uint32_t>(99).Put<uint64_t>(1).Put<uint64_t>(0));
     },
     "has an array of the unknown type 99 under k"},
    {"ArrayInteger", [] { return GgufWriter().Array<uint64_t>("k", kGgufUint64, {kHuge}); },
     "has the integer 18446744073709551615 in the array k"},
    {"ZeroAlignment", [] { return GgufWriter().Uint32("general.alignment", 0); },
     "has a general.alignment that is not a power of two from 8 to 65536"},
    {"OddAlignment", [] { return GgufWriter().Uint32("general.alignment", 48); },
     "has a general.alignment that is not a power of two"},
    {"AlignmentType", [] { return GgufWriter().String("general.alignment", "32"); },
     "has a general.alignment that is not a power of two"},
    {"NoDimensions", [] { return WithInfo("t", {}, kGgufF32, 0); },
     "has the tensor t with 0 dimensions; 1 to 4 are supported"},
    {"FiveDimensions",
     [] {
       return WithInfo("t", {1, 1, 1, 1, 1}, kGgufF32, 0);
     },
     "has the tensor t with 5 dimensions"},
    {"ZeroDimension",
     [] {
       return WithInfo("t", {4, 0}, kGgufF32, 0);
     },
     "has the tensor t with a dimension of 0; 1 to 2^63 - 1 are possible"},
    {"NegativeDimension", [] { return WithInfo("t", {kHuge}, kGgufF32, 0); },
     "has the tensor t with a dimension of 18446744073709551615"},
    {"DimensionProduct",
     [] {
       return WithInfo("t", {uint64_t{1} << 32, uint64_t{1} << 32, 1}, kGgufF32, 0);
     },
     "has the tensor t with more than 2^63 bytes"},
    {"ByteProduct", [] { return WithInfo("t", {uint64_t{1} << 62}, kGgufF32, 0); },
     "has the tensor t with more than 2^63 bytes"},
    {"PartialBlock",
     [] {
       return WithInfo("t", {2, 48}, kGgufQ8_0, 0);
     },
     "has the tensor t with rows of 48 elements, which is no multiple of the 32 that a block of "
     "type Q8_0 holds"},
    {"UnsupportedType", [] { return WithInfo("t", {256}, kGgufQ2_K, 0); },
     "has the tensor t of type Q2_K, which is not supported"},
    {"UnknownType", [] { return WithInfo("t", {256}, 1000, 0); },
     "has the tensor t of the unknown type 1000"},
    {"NamelessTensor", [] { return WithInfo("", {1}, kGgufF32, 0); },
     "has a tensor without a name"},
    {"LongTensorName", [] { return WithInfo(std::string(65, 't'), {1}, kGgufF32, 0); },
     "has a tensor name of 65 bytes in the tensor infos; the limit is 64"},
    {"TensorTwice", [] { return WithInfo("filler", {1}, kGgufF32, 0); },
     "has the tensor filler twice"},
    {"UnalignedOffset", [] { return WithInfo("t", {1}, kGgufF32, 4); },
     "has the tensor t at the offset 4, which is not aligned to 32 bytes"},
    {"OffsetPastTheEnd", [] { return WithInfo("t", {1}, kGgufF32, kHuge - 31); },
     "is truncated: the tensor t takes 4 bytes at the offset 18446744073709551584 of a data "
     "section of 32 bytes"},
    {"DataPastTheEnd", [] { return WithInfo("t", {9}, kGgufF32, 0); },
     "is truncated: the tensor t takes 36 bytes at the offset 0 of a data section of 32 bytes"},
    {"Overlap", [] { return WithInfo("t", {8}, kGgufF32, 0); }, "in the same place"},
};

class GgufHostileTest : public testing::TestWithParam<HostileCase> {};

TEST_P(GgufHostileTest, IsRefusedWithItsReason) {
  const absl::Status status = ParseSafely(GetParam().write().Bytes());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(Files, GgufHostileTest, testing::ValuesIn(kHostileCases),
                         [](const testing::TestParamInfo<HostileCase>& info) {
                           return info.param.name;
                         });

}  // namespace
}  // namespace winnow

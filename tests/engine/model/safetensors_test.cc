#include "engine/model/safetensors.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/model/tiny_folder.h"

namespace winnow {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

absl::StatusOr<std::vector<SafetensorsTensor>> Parse(const std::string& bytes) {
  return ParseSafetensors(std::as_bytes(std::span(bytes)));
}

/// A file of this header and so many bytes of data.
std::string File(const std::string& header, size_t data_bytes) {
  const uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + header +
         std::string(data_bytes, 'x');
}

TEST(SafetensorsTest, TensorsComeInTheOrderOfTheirData) {
  const std::string file = File(
      R"({"b":{"shape":[2,3],"dtype":"BF16","data_offsets":[4,16]},"__metadata__":{"format":"pt"},)"
      R"("a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]},)"
      R"("c":{"dtype":"F32","shape":[],"data_offsets":[16,20]},)"
      R"("none":{"dtype":"I64","shape":[0,7],"data_offsets":[20,20]}}   )",
      20);
  const auto tensors = Parse(file);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 4u);
  const auto* data = reinterpret_cast<const std::byte*>(file.data() + file.size() - 20);
  EXPECT_EQ((*tensors)[0].name, "a");
  EXPECT_STREQ((*tensors)[0].type->name, "F8_E4M3");
  EXPECT_FALSE((*tensors)[0].type->supported);
  EXPECT_EQ((*tensors)[0].data.data(), data);
  EXPECT_EQ((*tensors)[1].name, "b");
  EXPECT_EQ((*tensors)[1].type->supported, DataType::kBF16);
  EXPECT_THAT((*tensors)[1].shape, ElementsAre(2, 3));
  EXPECT_EQ((*tensors)[1].data.data(), data + 4);
  EXPECT_EQ((*tensors)[1].data.size(), 12u);
  EXPECT_THAT((*tensors)[2].shape, IsEmpty());
  EXPECT_EQ((*tensors)[3].data.size(), 0u);
}

TEST(SafetensorsTest, AFileMayHoldNothing) {
  const auto tensors = Parse(File("{}", 0));
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  EXPECT_THAT(*tensors, IsEmpty());
}

struct Refusal {
  const char* name;
  std::string file;
  const char* reason;
};

class SafetensorsRefusalTest : public testing::TestWithParam<Refusal> {};

TEST_P(SafetensorsRefusalTest, SaysWhatIsWrong) {
  const absl::Status status = Parse(GetParam().file).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().reason));
}

/// A header of one tensor.
std::string One(const std::string& members) { return "{\"t\":{" + members + "}}"; }

INSTANTIATE_TEST_SUITE_P(
    Files, SafetensorsRefusalTest,
    testing::Values(
        Refusal{"Short", "1234567", "it has 7 bytes"},
        Refusal{"Truncated", File("{}", 0).substr(0, 9), "its header would have 2 bytes; 1 follow"},
        Refusal{"HugeHeader", std::string(8, '\x7f') + "{}", "the limit is 100000000"},
        Refusal{"NoJson", File("{\"a\":", 0), "not valid JSON: at its byte"},
        Refusal{"NoObject", File("[]", 0), "no JSON object"},
        Refusal{"MoreBehind", File("{}{}", 0), "not valid JSON"},
        Refusal{"Twice",
                File(R"({"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                     R"("t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
                     0),
                "has t twice"},
        Refusal{"MemberTwice", File(One(R"("dtype":"U8","dtype":"U8")"), 0), "with dtype twice"},
        Refusal{"UnknownMember", File(One(R"("type":"U8")"), 0), "a member type"},
        Refusal{"Incomplete", File(One(R"("dtype":"U8","shape":[1])"), 1), "not all of"},
        Refusal{"UnknownType", File(One(R"("dtype":"Q4","shape":[1],"data_offsets":[0,1])"), 1),
                "the unknown type Q4"},
        Refusal{"TypeIsNumber", File(One(R"("dtype":4)"), 1), "a number in a wrong place"},
        Refusal{"ShapeIsText", File(One(R"("shape":"1")"), 1), "a text in a wrong place"},
        Refusal{"ShapeIsObject", File(One(R"("shape":{})"), 1), "an object in a wrong place"},
        Refusal{"NestedShape", File(One(R"("shape":[[1]])"), 1), "an array in a wrong place"},
        Refusal{"NegativeSize", File(One(R"("shape":[-1])"), 1), "a negative number"},
        Refusal{"Fraction", File(One(R"("shape":[1.5])"), 1), "a fraction"},
        Refusal{"HugeSize", File(One(R"("shape":[18446744073709551615])"), 1), "up to 2^63 - 1"},
        Refusal{"ManyDimensions", File(One(R"("shape":[1,1,1,1,1,1,1,1,1])"), 1),
                "more than 8 dimensions"},
        Refusal{"ThreeOffsets", File(One(R"("data_offsets":[0,1,2])"), 1), "not two"},
        Refusal{"OneOffset", File(One(R"("data_offsets":[0])"), 1), "not two"},
        Refusal{"Null", File(R"({"t":null})", 0), "null in a wrong place"},
        Refusal{
            "Overflow",
            File(One(R"("dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,1])"), 1),
            "more than 2^63 bytes"},
        Refusal{"WrongSize", File(One(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"), 4),
                "with 4 bytes, where its type and shape take 8"},
        Refusal{"BehindTheEnd", File(One(R"("dtype":"U8","shape":[2],"data_offsets":[0,2])"), 1),
                "from byte 0 to 2 of its 1 bytes"},
        Refusal{"Backwards", File(One(R"("dtype":"U8","shape":[2],"data_offsets":[2,0])"), 2),
                "from byte 2 to 0"},
        Refusal{"GapInFront", File(One(R"("dtype":"U8","shape":[1],"data_offsets":[1,2])"), 2),
                "at byte 1 of its data, where the one before it ends at 0"},
        Refusal{"GapBehind", File(One(R"("dtype":"U8","shape":[1],"data_offsets":[0,1])"), 2),
                "has 2 bytes of data, of which its tensors take 1"},
        Refusal{"Overlap",
                File(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                     R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
                     3),
                "at byte 1 of its data, where the one before it ends at 2"},
        Refusal{"LongName", File("{\"" + std::string(1025, 'n') + "\":{}}", 0),
                "a tensor name of 1025 bytes"}),
    [](const testing::TestParamInfo<Refusal>& info) { return info.param.name; });

}  // namespace
}  // namespace winnow

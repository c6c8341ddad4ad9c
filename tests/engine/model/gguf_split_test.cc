#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "engine/model/checkpoint.h"
#include "engine/model/fingerprint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/model/temporary_folder.h"
#include "tests/engine/model/tiny_model.h"

namespace winnow {
namespace {

using testing::HasSubstr;

constexpr int kParts = 3;

TinyModel RandomModel() {
  TinyModel model("llama");
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (const auto& [name, shape] : model.shapes) {
    uint64_t elements = 1;
    for (const uint64_t size : shape) elements *= size;
    std::vector<float>& values = model.values[name];
    for (uint64_t i = 0; i < elements; ++i) values.push_back(normal(random));
  }
  return model;
}

/// How the parts say what they are; a test changes it.
struct Claims {
  uint32_t number[kParts] = {0, 1, 2};
  uint32_t count[kParts] = {kParts, kParts, kParts};
  uint32_t tensors = 0;
};

std::string PartName(int part) { return "tiny-0000" + std::to_string(part + 1) + "-of-00003.gguf"; }

/// The model in three files, of which the first alone has the metadata.
void WriteParts(const TinyModel& model, const Claims& claims, const TemporaryFolder& folder) {
  for (int part = 0; part < kParts; ++part) {
    TinyModel own = model;
    if (part > 0) {
      own.strings.clear();
      own.ints.clear();
      own.floats.clear();
    }
    own.ints["split.no"] = claims.number[part];
    own.ints["split.count"] = claims.count[part];
    own.ints["split.tensors.count"] = claims.tensors;
    int index = 0;
    std::erase_if(own.shapes, [&](const auto&) { return index++ % kParts != part; });
    folder.Write(PartName(part), own.Write().Bytes());
  }
}

class GgufSplitTest : public testing::Test {
 protected:
  GgufSplitTest() { claims_.tensors = static_cast<uint32_t>(model_.shapes.size()); }

  absl::Status Open(int part = 0) const {
    return Checkpoint::Open(folder_.path(PartName(part))).status();
  }
  void ExpectRefused(absl::StatusCode code, const std::string& reason, int part = 0) const {
    const absl::Status status = Open(part);
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(reason));
  }

  const TinyModel model_ = RandomModel();
  const TemporaryFolder folder_;
  Claims claims_;
};

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

TEST_F(GgufSplitTest, AllPartsAreOneModel) {
  WriteParts(model_, claims_, folder_);
  const TemporaryFile whole(model_.Write().Bytes());
  const auto split = Checkpoint::Open(folder_.path(PartName(0)));
  const auto one = Checkpoint::Open(whole.path());
  ASSERT_TRUE(split.ok()) << split.status();
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ((*split)->tensors().size(), model_.shapes.size());
  EXPECT_EQ(ModelFingerprint(**split), ModelFingerprint(**one));
  for (const WeightInfo& tensor : (*one)->tensors()) {
    const HostMatrix a = (*one)->weights().Weight(tensor.name).matrix;
    const HostMatrix b = (*split)->weights().Weight(tensor.name).matrix;
    EXPECT_TRUE(std::ranges::equal(a.data, b.data)) << tensor.name;
  }
}

TEST_F(GgufSplitTest, AnyPartButTheFirstNamesTheFirst) {
  WriteParts(model_, claims_, folder_);
  ExpectRefused(kInvalid,
                "is part 2 of 3 of a model; name the first, whose name ends in "
                "-00001-of-00003.gguf",
                1);
}

TEST_F(GgufSplitTest, AMissingPartIsNamed) {
  WriteParts(model_, claims_, folder_);
  folder_.Remove(PartName(2));
  ExpectRefused(absl::StatusCode::kNotFound, "part 3 of 3 of the model: ");
}

TEST_F(GgufSplitTest, TruncatedPartsAreRefused) {
  WriteParts(model_, claims_, folder_);
  const std::string path = folder_.path(PartName(1));
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  ExpectRefused(kInvalid, "is truncated");
}

TEST_F(GgufSplitTest, PartsOfAnotherNumberOrCountAreForeign) {
  claims_.number[1] = 2;
  WriteParts(model_, claims_, folder_);
  ExpectRefused(kInvalid, "does not say that it is part 2 of 3 of a model");
  claims_.number[1] = 1;
  claims_.count[2] = 4;
  WriteParts(model_, claims_, folder_);
  ExpectRefused(kInvalid, "does not say that it is part 3 of 3 of a model");
}

TEST_F(GgufSplitTest, APartOfAnotherModelHasTensorsTwiceOrTooFew) {
  WriteParts(model_, claims_, folder_);
  TinyModel other("llama");
  other.ints["split.no"] = 1;
  other.ints["split.count"] = kParts;
  folder_.Write(PartName(1), other.Write().Bytes());
  ExpectRefused(kInvalid, ", which a part before it has");
  other.shapes.clear();
  folder_.Write(PartName(1), other.Write().Bytes());
  ExpectRefused(kInvalid, "says that its parts have 20 tensors together; they have 13");
}

TEST_F(GgufSplitTest, AFirstPartMustBeNamedAsOne) {
  WriteParts(model_, claims_, folder_);
  std::filesystem::rename(folder_.path(PartName(0)), folder_.path("tiny.gguf"));
  const absl::Status status = Checkpoint::Open(folder_.path("tiny.gguf")).status();
  EXPECT_EQ(status.code(), kInvalid);
  EXPECT_THAT(std::string(status.message()), HasSubstr("does not end in -00001-of-00003.gguf"));
}

}  // namespace
}  // namespace winnow

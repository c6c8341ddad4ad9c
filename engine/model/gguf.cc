#include "engine/model/gguf.h"

#include <algorithm>
#include <cassert>
#include <limits>
#include <utility>
#include <variant>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/model/gguf_parser.h"

namespace winnow {
namespace {

constexpr int64_t kMaxParts = 65535;  // what split.count can hold

absl::Status WrongType(const std::string& path, std::string_view key, const char* wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": metadata key ", std::string(key), " is not ", wanted));
}

absl::StatusOr<const GgufFile::Value*> FindValue(const GgufFile& file, std::string_view key) {
  const auto entry = file.metadata().find(key);
  if (entry == file.metadata().end()) {
    return absl::NotFoundError(
        absl::StrCat(file.path(), ": metadata key ", std::string(key), " is missing"));
  }
  return &entry->second;
}

template <typename T>
absl::StatusOr<const T*> FindAs(const GgufFile& file, std::string_view key, const char* wanted) {
  const absl::StatusOr<const GgufFile::Value*> value = FindValue(file, key);
  if (!value.ok()) return value.status();
  const T* typed = std::get_if<T>(*value);
  if (typed == nullptr) return WrongType(file.path(), key, wanted);
  return typed;
}

absl::StatusOr<GgufContents> Parse(const std::string& path, const MappedFile& file) {
  absl::StatusOr<GgufContents> contents = ParseGguf(file.bytes());
  if (contents.ok()) return contents;
  return absl::InvalidArgumentError(
      absl::StrCat(path, " ", std::string(contents.status().message())));
}

/// How the names of a model's parts end; parts count from 0.
std::string PartSuffix(int64_t part, int64_t count) {
  return absl::StrFormat("-%05d-of-%05d.gguf", part + 1, count);
}

/// A split.* key of a part; -1 when there is none.
int64_t SplitNumber(const GgufContents& contents, const char* key) {
  const auto entry = contents.metadata.find(key);
  if (entry == contents.metadata.end()) return -1;
  if (const auto* number = std::get_if<uint64_t>(&entry->second)) {
    return static_cast<int64_t>(std::min<uint64_t>(*number, kMaxParts + 1));
  }
  const auto* number = std::get_if<int64_t>(&entry->second);
  return number == nullptr ? -1 : *number;
}

}  // namespace

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  absl::StatusOr<MappedFile> mapped = MappedFile::Open(path);
  if (!mapped.ok()) return mapped.status();
  absl::StatusOr<GgufContents> contents = Parse(path, *mapped);
  if (!contents.ok()) return contents.status();
  std::unique_ptr<GgufFile> file(new GgufFile());
  file->path_ = path;
  file->files_.push_back(*std::move(mapped));
  const int64_t parts = SplitNumber(*contents, "split.count");
  const int64_t part = SplitNumber(*contents, "split.no");
  file->metadata_ = std::move(contents->metadata);
  file->tensors_ = std::move(contents->tensors);
  file->tensor_index_ = std::move(contents->tensor_index);
  if (parts <= 1) return file;
  if (part != 0) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is part ", part + 1, " of ", parts,
                                                   " of a model; name the first, whose name ends "
                                                   "in ",
                                                   PartSuffix(0, parts)));
  }
  if (absl::Status status = file->AddParts(parts); !status.ok()) return status;
  return file;
}

absl::Status GgufFile::AddParts(int64_t count) {
  const std::string suffix = PartSuffix(0, count);
  if (count > kMaxParts || !absl::EndsWith(path_, suffix)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, " is the first of ", count, " parts of a model, but its name does not ",
                     "end in ", suffix, ", by which the others are found"));
  }
  const std::string stem = path_.substr(0, path_.size() - suffix.size());
  for (int64_t part = 1; part < count; ++part) {
    const std::string path = stem + PartSuffix(part, count);
    absl::StatusOr<MappedFile> mapped = MappedFile::Open(path);
    if (!mapped.ok()) {
      return absl::Status(mapped.status().code(),
                          absl::StrCat("part ", part + 1, " of ", count,
                                       " of the model: ", std::string(mapped.status().message())));
    }
    absl::StatusOr<GgufContents> contents = Parse(path, *mapped);
    if (!contents.ok()) return contents.status();
    if (SplitNumber(*contents, "split.no") != part ||
        SplitNumber(*contents, "split.count") != count) {
      return absl::InvalidArgumentError(absl::StrCat(path, " does not say that it is part ",
                                                     part + 1, " of ", count, " of a model"));
    }
    files_.push_back(*std::move(mapped));
    for (Tensor& tensor : contents->tensors) {
      if (!tensor_index_.emplace(tensor.name, tensors_.size()).second) {
        return absl::InvalidArgumentError(
            absl::StrCat(path, " has the tensor ", tensor.name, ", which a part before it has"));
      }
      tensors_.push_back(std::move(tensor));
    }
  }
  const absl::StatusOr<int64_t> wanted = GetInt("split.tensors.count");
  const auto found = static_cast<int64_t>(tensors_.size());
  if (wanted.ok() && *wanted != found) {
    return absl::InvalidArgumentError(absl::StrCat(path_, " says that its parts have ", *wanted,
                                                   " tensors together; they have ", found));
  }
  return absl::OkStatus();
}

int64_t GgufFile::file_bytes() const {
  int64_t bytes = 0;
  for (const MappedFile& file : files_) bytes += static_cast<int64_t>(file.bytes().size());
  return bytes;
}

std::vector<WeightInfo> GgufFile::Tensors() const {
  std::vector<WeightInfo> tensors;
  for (const Tensor& tensor : tensors_) {
    tensors.push_back(
        {tensor.name, tensor.type, tensor.shape, static_cast<int64_t>(tensor.data.size())});
  }
  return tensors;
}

HostWeight GgufFile::Weight(std::string_view name) const {
  const Tensor* tensor = FindTensor(name);
  assert(tensor != nullptr);
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < tensor->shape.size(); ++i) rows *= tensor->shape[i];
  return HostMatrix{tensor->type, rows, tensor->shape.back(), tensor->data};
}

const GgufFile::Tensor* GgufFile::FindTensor(std::string_view name) const {
  const auto entry = tensor_index_.find(name);
  return entry == tensor_index_.end() ? nullptr : &tensors_[entry->second];
}

absl::StatusOr<int64_t> GgufFile::GetInt(std::string_view key) const {
  const absl::StatusOr<const Value*> value = FindValue(*this, key);
  if (!value.ok()) return value.status();
  if (const auto* with_sign = std::get_if<int64_t>(*value)) return *with_sign;
  const auto* without_sign = std::get_if<uint64_t>(*value);
  if (without_sign == nullptr) return WrongType(path_, key, "an integer");
  if (*without_sign > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return WrongType(path_, key, "an integer below 2^63");
  }
  return static_cast<int64_t>(*without_sign);
}

absl::StatusOr<double> GgufFile::GetFloat(std::string_view key) const {
  const absl::StatusOr<const Value*> value = FindValue(*this, key);
  if (!value.ok()) return value.status();
  if (const auto* number = std::get_if<double>(*value)) return *number;
  if (const auto* number = std::get_if<int64_t>(*value)) return static_cast<double>(*number);
  if (const auto* number = std::get_if<uint64_t>(*value)) return static_cast<double>(*number);
  return WrongType(path_, key, "a number");
}

absl::StatusOr<bool> GgufFile::GetBool(std::string_view key) const {
  const absl::StatusOr<const bool*> value = FindAs<bool>(*this, key, "a boolean");
  if (!value.ok()) return value.status();
  return **value;
}

absl::StatusOr<std::string> GgufFile::GetString(std::string_view key) const {
  const absl::StatusOr<const std::string*> value = FindAs<std::string>(*this, key, "a string");
  if (!value.ok()) return value.status();
  return **value;
}

absl::StatusOr<const std::vector<std::string>*> GgufFile::GetStrings(std::string_view key) const {
  return FindAs<std::vector<std::string>>(*this, key, "an array of strings");
}

absl::StatusOr<const std::vector<int64_t>*> GgufFile::GetInts(std::string_view key) const {
  return FindAs<std::vector<int64_t>>(*this, key, "an array of integers");
}

absl::StatusOr<const std::vector<double>*> GgufFile::GetFloats(std::string_view key) const {
  return FindAs<std::vector<double>>(*this, key, "an array of floats");
}

void GgufFile::ReleasePages() const {
  for (const MappedFile& file : files_) file.ReleasePages();
}

}  // namespace winnow

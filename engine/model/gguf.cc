#include "engine/model/gguf.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cassert>
#include <cerrno>
#include <limits>
#include <utility>
#include <variant>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/model/gguf_parser.h"

namespace winnow {
namespace {

absl::Status SystemError(const std::string& path, const char* action, int error) {
  const absl::Status status = absl::ErrnoToStatus(error, action);
  return absl::Status(status.code(), absl::StrCat(path, ": ", std::string(status.message())));
}

/// Maps the file read-only; the descriptor is closed again.
absl::StatusOr<std::span<const std::byte>> MapFile(const std::string& path) {
  // Without O_NONBLOCK, opening a named pipe would wait for a writer.
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return SystemError(path, "cannot open the model file", errno);
  absl::StatusOr<std::span<const std::byte>> mapping;
  struct stat info = {};
  if (fstat(descriptor, &info) != 0) {
    mapping = SystemError(path, "cannot read the model file's size", errno);
  } else if (!S_ISREG(info.st_mode)) {
    mapping = absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  } else if (info.st_size == 0) {
    mapping = absl::InvalidArgumentError(absl::StrCat(path, " is empty"));
  } else {
    const auto bytes = static_cast<size_t>(info.st_size);
    void* data = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (data == MAP_FAILED) {
      mapping = SystemError(path, "cannot map the model file", errno);
    } else {
      mapping = std::span(static_cast<const std::byte*>(data), bytes);
    }
  }
  close(descriptor);
  return mapping;
}

void* MutableStart(std::span<const std::byte> mapping) {
  return const_cast<std::byte*>(mapping.data());  // as munmap and madvise want it
}

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

}  // namespace

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  const absl::StatusOr<std::span<const std::byte>> mapping = MapFile(path);
  if (!mapping.ok()) return mapping.status();
  std::unique_ptr<GgufFile> file(new GgufFile());
  file->path_ = path;
  file->mapping_ = *mapping;  // from here on the destructor unmaps
  absl::StatusOr<GgufContents> contents = ParseGguf(*mapping);
  if (!contents.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " ", std::string(contents.status().message())));
  }
  file->metadata_ = std::move(contents->metadata);
  file->tensors_ = std::move(contents->tensors);
  file->tensor_index_ = std::move(contents->tensor_index);
  return file;
}

GgufFile::~GgufFile() { munmap(MutableStart(mapping_), mapping_.size()); }

HostMatrix GgufFile::Weight(std::string_view name) const {
  const Tensor* tensor = FindTensor(name);
  assert(tensor != nullptr);
  const int64_t rows = tensor->shape.size() > 1 ? tensor->shape[0] : 1;
  return {tensor->type, rows, tensor->shape.back(), tensor->data};
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
  madvise(MutableStart(mapping_), mapping_.size(), MADV_DONTNEED);
}

}  // namespace winnow

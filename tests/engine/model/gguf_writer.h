#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace winnow {

/// Value and tensor types as GGUF numbers them.
enum GgufValueType : uint32_t {
  kGgufUint8 = 0,
  kGgufInt8 = 1,
  kGgufUint16 = 2,
  kGgufInt16 = 3,
  kGgufUint32 = 4,
  kGgufInt32 = 5,
  kGgufFloat32 = 6,
  kGgufBool = 7,
  kGgufString = 8,
  kGgufArray = 9,
  kGgufUint64 = 10,
  kGgufInt64 = 11,
  kGgufFloat64 = 12,
};
enum GgufTensorType : uint32_t { kGgufF32 = 0, kGgufF16 = 1, kGgufQ8_0 = 8, kGgufQ2_K = 10 };

/// Little-endian bytes, appended one value after the other.
class ByteWriter {
 public:
  template <typename T>
  ByteWriter& Put(T value) {
    static_assert(std::is_arithmetic_v<T>);
    const auto* begin = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), begin, begin + sizeof(T));
    return *this;
  }
  ByteWriter& PutString(std::string_view text) {
    Put<uint64_t>(text.size());
    return PutBytes(std::as_bytes(std::span(text)));
  }
  ByteWriter& PutBytes(std::span<const std::byte> bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  ByteWriter& PadTo(size_t alignment) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment);
    return *this;
  }
  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

/// Writes small GGUF files for tests, invalid ones too: nothing is checked. An implementation of
/// the format of its own, apart from the parser.
class GgufWriter {
 public:
  uint32_t version = 3;
  uint64_t alignment = 32;     ///< of the data that Bytes() lays out; not written as metadata
  uint64_t extra_tensors = 0;  ///< added to the count in the header
  uint64_t extra_metadata = 0;

  /// A metadata entry; `value` holds the encoded value.
  GgufWriter& Raw(std::string_view key, uint32_t type, const ByteWriter& value) {
    metadata_.PutString(key).Put(type).PutBytes(value.bytes());
    ++metadata_count_;
    return *this;
  }
  GgufWriter& Uint32(std::string_view key, uint32_t value) {
    return Raw(key, kGgufUint32, ByteWriter().Put(value));
  }
  GgufWriter& Float32(std::string_view key, float value) {
    return Raw(key, kGgufFloat32, ByteWriter().Put(value));
  }
  GgufWriter& Bool(std::string_view key, bool value) {
    return Raw(key, kGgufBool, ByteWriter().Put<uint8_t>(value ? 1 : 0));
  }
  GgufWriter& String(std::string_view key, std::string_view value) {
    return Raw(key, kGgufString, ByteWriter().PutString(value));
  }
  GgufWriter& Strings(std::string_view key, const std::vector<std::string>& values) {
    ByteWriter array;
    array.Put<uint32_t>(kGgufString).Put<uint64_t>(values.size());
    for (const std::string& value : values) array.PutString(value);
    return Raw(key, kGgufArray, array);
  }
  /// An array of numbers of the given element type.
  template <typename T>
  GgufWriter& Array(std::string_view key, uint32_t element_type, const std::vector<T>& values) {
    ByteWriter array;
    array.Put(element_type).Put<uint64_t>(values.size());
    for (const T value : values) array.Put(value);
    return Raw(key, kGgufArray, array);
  }

  /// A tensor info, dimensions outermost first.
  GgufWriter& TensorInfo(std::string_view name, const std::vector<uint64_t>& shape, uint32_t type,
                         uint64_t offset) {
    infos_.PutString(name).Put<uint32_t>(static_cast<uint32_t>(shape.size()));
    for (auto size = shape.rbegin(); size != shape.rend(); ++size) infos_.Put<uint64_t>(*size);
    infos_.Put(type).Put(offset);
    ++tensor_count_;
    return *this;
  }
  /// A tensor with its data, behind those before it.
  GgufWriter& Tensor(std::string_view name, const std::vector<uint64_t>& shape, uint32_t type,
                     std::span<const std::byte> data) {
    data_.PadTo(alignment);
    TensorInfo(name, shape, type, data_.bytes().size());
    data_.PutBytes(data);
    return *this;
  }
  GgufWriter& TensorF32(std::string_view name, const std::vector<uint64_t>& shape,
                        const std::vector<float>& values) {
    return Tensor(name, shape, kGgufF32, std::as_bytes(std::span(values)));
  }

  std::vector<std::byte> Bytes() const {
    ByteWriter file;
    file.Put('G').Put('G').Put('U').Put('F').Put(version);
    file.Put(tensor_count_ + extra_tensors).Put(metadata_count_ + extra_metadata);
    file.PutBytes(metadata_.bytes()).PutBytes(infos_.bytes());
    if (tensor_count_ > 0) file.PadTo(alignment).PutBytes(data_.bytes());
    return file.bytes();
  }

 private:
  ByteWriter metadata_;
  ByteWriter infos_;
  ByteWriter data_;
  uint64_t metadata_count_ = 0;
  uint64_t tensor_count_ = 0;
};

/// A file in the temporary directory, removed again on destruction.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::span<const std::byte> bytes) {
    std::string name = (std::filesystem::temp_directory_path() / "winnow_XXXXXX").string();
    close(mkstemp(name.data()));
    path_ = name;
    std::ofstream(path_, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace winnow

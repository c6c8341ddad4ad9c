#include "engine/model/gguf_parser.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace winnow {
namespace {

// Limits of the format, or generous ones where it sets none.
constexpr uint64_t kMaxKeyBytes = 65535;
constexpr uint64_t kMaxTensorNameBytes = 64;
constexpr uint64_t kMaxStringBytes = uint64_t{16} << 20;
constexpr uint64_t kMaxArrayElements = uint64_t{16} << 20;
constexpr uint32_t kMaxDimensions = 4;
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMinAlignment = 8;  // also what in-place reads of fp32 rely on
constexpr uint64_t kMaxAlignment = 65536;

// The fewest bytes that an entry takes: counts in the header are checked against these.
constexpr uint64_t kMinMetadataBytes = 8 + 1 + 4 + 1;  // key, type, value
constexpr uint64_t kMinTensorInfoBytes =
    8 + 1 + 4 + 8 + 4 + 8;  // name, one dimension, type, offset

enum class ValueType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

struct StoredType {
  uint32_t id;
  const char* name;
  std::optional<DataType> supported;
};

/// The format's tensor types by id, those included that only have a name here, for the message.
constexpr StoredType kStoredTypes[] = {
    {0, "F32", DataType::kF32},    {1, "F16", DataType::kF16},    {2, "Q4_0", DataType::kQ4_0},
    {3, "Q4_1", DataType::kQ4_1},  {6, "Q5_0", DataType::kQ5_0},  {7, "Q5_1", DataType::kQ5_1},
    {8, "Q8_0", DataType::kQ8_0},  {9, "Q8_1", std::nullopt},     {10, "Q2_K", std::nullopt},
    {11, "Q3_K", std::nullopt},    {12, "Q4_K", DataType::kQ4_K}, {13, "Q5_K", DataType::kQ5_K},
    {14, "Q6_K", DataType::kQ6_K}, {15, "Q8_K", std::nullopt},    {16, "IQ2_XXS", std::nullopt},
    {17, "IQ2_XS", std::nullopt},  {18, "IQ3_XXS", std::nullopt}, {19, "IQ1_S", std::nullopt},
    {20, "IQ4_NL", std::nullopt},  {21, "IQ3_S", std::nullopt},   {22, "IQ2_S", std::nullopt},
    {23, "IQ4_XS", std::nullopt},  {24, "I8", std::nullopt},      {25, "I16", std::nullopt},
    {26, "I32", std::nullopt},     {27, "I64", std::nullopt},     {28, "F64", std::nullopt},
    {29, "IQ1_M", std::nullopt},   {30, "BF16", DataType::kBF16}, {34, "TQ1_0", std::nullopt},
    {35, "TQ2_0", std::nullopt},   {39, "MXFP4", std::nullopt},   {40, "NVFP4", std::nullopt},
};

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

/// Reads little-endian values one after the other. The first failure sticks: every later read
/// yields zero or nothing, so callers check status() once per item.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> file) : file_(file) {}

  template <typename T>
  T Read() {
    T value{};
    if (Require(sizeof(T))) {
      std::memcpy(&value, file_.data() + position_, sizeof(T));
      position_ += sizeof(T);
    }
    return value;
  }

  /// A string behind its 64-bit length. `what` names it in the message.
  std::string ReadString(uint64_t max_bytes, const char* what) {
    const auto bytes = Read<uint64_t>();
    if (status_.ok() && bytes > max_bytes) {
      Fail(Invalid("has ", what, " of ", bytes, " bytes in ", section_, "; the limit is ",
                   max_bytes));
    }
    if (!Require(bytes)) return "";
    std::string value(reinterpret_cast<const char*>(file_.data() + position_), bytes);
    position_ += bytes;
    return value;
  }

  void Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
  }

  /// What is being read, for messages, such as "the header".
  void set_section(std::string section) { section_ = std::move(section); }

  const absl::Status& status() const { return status_; }
  uint64_t position() const { return position_; }
  uint64_t remaining() const { return file_.size() - position_; }

 private:
  bool Require(uint64_t bytes) {
    if (status_.ok() && bytes > remaining()) {
      Fail(Invalid("is truncated: it ends at byte ", file_.size(), " within ", section_));
    }
    return status_.ok();
  }

  std::span<const std::byte> file_;
  uint64_t position_ = 0;
  std::string section_;
  absl::Status status_;
};

uint64_t ElementBytes(ValueType type) {
  switch (type) {
    case ValueType::kUint8:
    case ValueType::kInt8:
    case ValueType::kBool:
      return 1;
    case ValueType::kUint16:
    case ValueType::kInt16:
      return 2;
    case ValueType::kUint32:
    case ValueType::kInt32:
    case ValueType::kFloat32:
      return 4;
    case ValueType::kUint64:
    case ValueType::kInt64:
    case ValueType::kFloat64:
    case ValueType::kString:  // its length field
    case ValueType::kArray:
      return 8;
  }
  return 8;
}

bool ReadBool(Cursor& cursor, const std::string& key) {
  const auto value = cursor.Read<uint8_t>();
  if (value > 1) cursor.Fail(Invalid("has the boolean ", int{value}, " under ", key));
  return value == 1;
}

template <typename T>
int64_t ReadArrayInt(Cursor& cursor, const std::string& key) {
  const T value = cursor.Read<T>();
  if constexpr (std::is_same_v<T, uint64_t>) {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      cursor.Fail(Invalid("has the integer ", value, " in the array ", key,
                          ", which does not fit 64 bits with a sign"));
    }
  }
  return static_cast<int64_t>(value);
}

/// `count` elements by calling `read` for each. REQUIRES: the count was checked against the file.
template <typename T, typename ReadElement>
std::vector<T> ReadElements(Cursor& cursor, uint64_t count, ReadElement read) {
  std::vector<T> elements;
  elements.reserve(count);
  for (uint64_t i = 0; i < count && cursor.status().ok(); ++i) elements.push_back(read());
  return elements;
}

GgufFile::Value ReadArray(Cursor& cursor, const std::string& key) {
  const auto type = static_cast<ValueType>(cursor.Read<uint32_t>());
  const auto count = cursor.Read<uint64_t>();
  if (!cursor.status().ok()) return uint64_t{0};
  if (count > kMaxArrayElements) {
    cursor.Fail(Invalid("has an array of ", count, " elements under ", key, "; the limit is ",
                        kMaxArrayElements));
    return uint64_t{0};
  }
  if (count > cursor.remaining() / ElementBytes(type)) {
    cursor.Fail(Invalid("is truncated: the array ", key, " claims ", count,
                        " elements, more than the rest of the file holds"));
    return uint64_t{0};
  }
  const auto ints = [&]<typename T>(T) {
    return ReadElements<int64_t>(cursor, count, [&] { return ReadArrayInt<T>(cursor, key); });
  };
  switch (type) {
    case ValueType::kUint8:
      return ints(uint8_t{});
    case ValueType::kInt8:
      return ints(int8_t{});
    case ValueType::kUint16:
      return ints(uint16_t{});
    case ValueType::kInt16:
      return ints(int16_t{});
    case ValueType::kUint32:
      return ints(uint32_t{});
    case ValueType::kInt32:
      return ints(int32_t{});
    case ValueType::kUint64:
      return ints(uint64_t{});
    case ValueType::kInt64:
      return ints(int64_t{});
    case ValueType::kBool:
      return ReadElements<int64_t>(cursor, count, [&] { return int64_t{ReadBool(cursor, key)}; });
    case ValueType::kFloat32:
      return ReadElements<double>(cursor, count, [&] { return double{cursor.Read<float>()}; });
    case ValueType::kFloat64:
      return ReadElements<double>(cursor, count, [&] { return cursor.Read<double>(); });
    case ValueType::kString:
      return ReadElements<std::string>(
          cursor, count, [&] { return cursor.ReadString(kMaxStringBytes, "a string"); });
    case ValueType::kArray:
      cursor.Fail(Invalid("has an array of arrays under ", key, ", which is not supported"));
      return uint64_t{0};
  }
  cursor.Fail(
      Invalid("has an array of the unknown type ", static_cast<uint32_t>(type), " under ", key));
  return uint64_t{0};
}

GgufFile::Value ReadValue(Cursor& cursor, const std::string& key) {
  const auto type = static_cast<ValueType>(cursor.Read<uint32_t>());
  switch (type) {
    case ValueType::kUint8:
      return uint64_t{cursor.Read<uint8_t>()};
    case ValueType::kInt8:
      return int64_t{cursor.Read<int8_t>()};
    case ValueType::kUint16:
      return uint64_t{cursor.Read<uint16_t>()};
    case ValueType::kInt16:
      return int64_t{cursor.Read<int16_t>()};
    case ValueType::kUint32:
      return uint64_t{cursor.Read<uint32_t>()};
    case ValueType::kInt32:
      return int64_t{cursor.Read<int32_t>()};
    case ValueType::kUint64:
      return cursor.Read<uint64_t>();
    case ValueType::kInt64:
      return cursor.Read<int64_t>();
    case ValueType::kFloat32:
      return double{cursor.Read<float>()};
    case ValueType::kFloat64:
      return cursor.Read<double>();
    case ValueType::kBool:
      return ReadBool(cursor, key);
    case ValueType::kString:
      return cursor.ReadString(kMaxStringBytes, "a string");
    case ValueType::kArray:
      return ReadArray(cursor, key);
  }
  cursor.Fail(
      Invalid("has a value of the unknown type ", static_cast<uint32_t>(type), " under ", key));
  return uint64_t{0};
}

struct Header {
  uint64_t tensors = 0;
  uint64_t metadata = 0;
};

absl::StatusOr<Header> ReadHeader(Cursor& cursor) {
  cursor.set_section("the header");
  const auto magic = cursor.Read<std::array<char, 4>>();
  if (cursor.status().ok() && magic != std::array{'G', 'G', 'U', 'F'}) {
    return Invalid("is not a GGUF file: it does not begin with \"GGUF\"");
  }
  const auto version = cursor.Read<uint32_t>();
  if (cursor.status().ok() && version != 3) {
    if (version == uint32_t{3} << 24) return Invalid("is a big-endian GGUF file");
    return Invalid("is GGUF version ", version, "; only version 3 is supported");
  }
  Header header;
  header.tensors = cursor.Read<uint64_t>();
  header.metadata = cursor.Read<uint64_t>();
  if (!cursor.status().ok()) return cursor.status();
  if (header.metadata > cursor.remaining() / kMinMetadataBytes) {
    return Invalid("claims ", header.metadata, " metadata entries, more than its ",
                   cursor.remaining(), " bytes after the header hold");
  }
  if (header.tensors > cursor.remaining() / kMinTensorInfoBytes) {
    return Invalid("claims ", header.tensors, " tensors, more than its ", cursor.remaining(),
                   " bytes after the header hold");
  }
  return header;
}

absl::Status ReadMetadata(Cursor& cursor, uint64_t count, GgufContents& contents) {
  cursor.set_section("the metadata");
  for (uint64_t i = 0; i < count; ++i) {
    std::string key = cursor.ReadString(kMaxKeyBytes, "a key");
    if (!cursor.status().ok()) return cursor.status();
    const bool printable =
        std::all_of(key.begin(), key.end(), [](char c) { return c > ' ' && c < '\x7f'; });
    if (key.empty() || !printable) {
      return Invalid("has an empty or unprintable key: metadata entry ", i);
    }
    GgufFile::Value value = ReadValue(cursor, key);
    if (!cursor.status().ok()) return cursor.status();
    const auto [entry, inserted] = contents.metadata.emplace(std::move(key), std::move(value));
    if (!inserted) return Invalid("has the key ", entry->first, " twice");
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> ReadAlignment(const GgufContents& contents) {
  const auto entry = contents.metadata.find("general.alignment");
  if (entry == contents.metadata.end()) return kDefaultAlignment;
  const auto* alignment = std::get_if<uint64_t>(&entry->second);
  const bool power_of_two = alignment != nullptr && (*alignment & (*alignment - 1)) == 0;
  if (!power_of_two || *alignment < kMinAlignment || *alignment > kMaxAlignment) {
    return Invalid("has a general.alignment that is not a power of two from ", kMinAlignment,
                   " to ", kMaxAlignment);
  }
  return *alignment;
}

/// A tensor as its info describes it; its data is not located yet.
struct TensorInfo {
  std::string name;
  DataType type = DataType::kF32;
  std::vector<int64_t> shape;
  uint64_t bytes = 0;
  uint64_t offset = 0;  ///< from the start of the data section
};

absl::StatusOr<DataType> ToDataType(uint32_t id, const std::string& name) {
  for (const StoredType& stored : kStoredTypes) {
    if (stored.id != id) continue;
    if (stored.supported) return *stored.supported;
    return Invalid("has the tensor ", name, " of type ", stored.name, ", which is not supported");
  }
  return Invalid("has the tensor ", name, " of the unknown type ", id);
}

/// Bytes of a tensor: block divisibility and every product checked.
absl::StatusOr<uint64_t> TensorBytes(const TensorInfo& info) {
  int64_t rows = 1;
  int64_t bytes = 0;
  bool overflow = false;
  for (size_t i = 0; i + 1 < info.shape.size(); ++i) {
    overflow |= __builtin_mul_overflow(rows, info.shape[i], &rows);
  }
  const int64_t columns = info.shape.back();
  if (columns % BlockElements(info.type) != 0) {
    return Invalid("has the tensor ", info.name, " with rows of ", columns,
                   " elements, which is no multiple of the ", BlockElements(info.type),
                   " that a block of type ", DataTypeName(info.type), " holds");
  }
  overflow |=
      __builtin_mul_overflow(columns / BlockElements(info.type), BlockBytes(info.type), &bytes);
  overflow |= __builtin_mul_overflow(bytes, rows, &bytes);
  if (overflow) return Invalid("has the tensor ", info.name, " with more than 2^63 bytes");
  return static_cast<uint64_t>(bytes);
}

absl::StatusOr<TensorInfo> ReadTensorInfo(Cursor& cursor) {
  TensorInfo info;
  info.name = absl::CHexEscape(cursor.ReadString(kMaxTensorNameBytes, "a tensor name"));
  const auto dimensions = cursor.Read<uint32_t>();
  if (!cursor.status().ok()) return cursor.status();
  if (info.name.empty()) return Invalid("has a tensor without a name");
  if (dimensions == 0 || dimensions > kMaxDimensions) {
    return Invalid("has the tensor ", info.name, " with ", dimensions, " dimensions; 1 to ",
                   kMaxDimensions, " are supported");
  }
  info.shape.resize(dimensions);
  for (auto size = info.shape.rbegin(); size != info.shape.rend(); ++size) {  // innermost first
    *size = cursor.Read<int64_t>();
    if (cursor.status().ok() && *size <= 0) {
      return Invalid("has the tensor ", info.name, " with a dimension of ",
                     static_cast<uint64_t>(*size), "; 1 to 2^63 - 1 are possible");
    }
  }
  const auto type_id = cursor.Read<uint32_t>();
  info.offset = cursor.Read<uint64_t>();
  if (!cursor.status().ok()) return cursor.status();

  const absl::StatusOr<DataType> type = ToDataType(type_id, info.name);
  if (!type.ok()) return type.status();
  info.type = *type;
  const absl::StatusOr<uint64_t> bytes = TensorBytes(info);
  if (!bytes.ok()) return bytes.status();
  info.bytes = *bytes;
  return info;
}

/// Every tensor lies aligned inside the data section and apart from the others.
absl::Status CheckPlacement(const std::vector<TensorInfo>& infos, uint64_t alignment,
                            uint64_t data_bytes) {
  std::vector<const TensorInfo*> by_offset;
  by_offset.reserve(infos.size());
  for (const TensorInfo& info : infos) {
    if (info.offset % alignment != 0) {
      return Invalid("has the tensor ", info.name, " at the offset ", info.offset,
                     ", which is not aligned to ", alignment, " bytes");
    }
    if (info.offset > data_bytes || info.bytes > data_bytes - info.offset) {
      return Invalid("is truncated: the tensor ", info.name, " takes ", info.bytes,
                     " bytes at the offset ", info.offset, " of a data section of ", data_bytes,
                     " bytes");
    }
    by_offset.push_back(&info);
  }
  std::sort(by_offset.begin(), by_offset.end(),
            [](const TensorInfo* a, const TensorInfo* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < by_offset.size(); ++i) {
    if (by_offset[i]->offset - by_offset[i - 1]->offset < by_offset[i - 1]->bytes) {
      return Invalid("has the tensors ", by_offset[i - 1]->name, " and ", by_offset[i]->name,
                     " in the same place");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GgufContents> ParseGguf(std::span<const std::byte> file) {
  Cursor cursor(file);
  const absl::StatusOr<Header> header = ReadHeader(cursor);
  if (!header.ok()) return header.status();

  GgufContents contents;
  absl::Status status = ReadMetadata(cursor, header->metadata, contents);
  if (!status.ok()) return status;
  const absl::StatusOr<uint64_t> alignment = ReadAlignment(contents);
  if (!alignment.ok()) return alignment.status();

  cursor.set_section("the tensor infos");
  std::vector<TensorInfo> infos;
  for (uint64_t i = 0; i < header->tensors; ++i) {
    absl::StatusOr<TensorInfo> info = ReadTensorInfo(cursor);
    if (!info.ok()) return info.status();
    if (!contents.tensor_index.emplace(info->name, i).second) {
      return Invalid("has the tensor ", info->name, " twice");
    }
    infos.push_back(*std::move(info));
  }

  // The data section starts at the next aligned byte; a file without tensors may end before it.
  const uint64_t data_begin = (cursor.position() + *alignment - 1) / *alignment * *alignment;
  const std::span<const std::byte> data = file.subspan(std::min<uint64_t>(data_begin, file.size()));
  status = CheckPlacement(infos, *alignment, data.size());
  if (!status.ok()) return status;
  contents.tensors.reserve(infos.size());
  for (TensorInfo& info : infos) {
    contents.tensors.push_back({std::move(info.name), info.type, std::move(info.shape),
                                data.subspan(info.offset, info.bytes)});
  }
  return contents;
}

}  // namespace winnow

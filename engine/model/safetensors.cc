#include "engine/model/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace winnow {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr size_t kMaxNameBytes = 1024;
constexpr size_t kMaxDimensions = 8;

constexpr SafetensorsType kTypes[] = {
    {"F32", 4, DataType::kF32}, {"F16", 2, DataType::kF16},   {"BF16", 2, DataType::kBF16},
    {"F64", 8, std::nullopt},   {"F8_E4M3", 1, std::nullopt}, {"F8_E5M2", 1, std::nullopt},
    {"I64", 8, std::nullopt},   {"I32", 4, std::nullopt},     {"I16", 2, std::nullopt},
    {"I8", 1, std::nullopt},    {"U64", 8, std::nullopt},     {"U32", 4, std::nullopt},
    {"U16", 2, std::nullopt},   {"U8", 1, std::nullopt},      {"BOOL", 1, std::nullopt},
};

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

/// A tensor as the header describes it.
struct Entry {
  std::string name;
  const SafetensorsType* type = nullptr;
  std::vector<int64_t> shape;
  std::vector<int64_t> offsets;  ///< begin and end, from the end of the header
  std::set<std::string> fields;  ///< seen so far
};

/// Reads the header's JSON event by event, so that it is never held as a tree: an object with a
/// member for each tensor, which is an object of "dtype", "shape" and "data_offsets", and with
/// "__metadata__", an object of texts. Anything else is refused where it stands.
class HeaderReader : public nlohmann::json_sax<Json> {
 public:
  absl::StatusOr<std::vector<Entry>> Finish(bool parsed) && {
    if (!status_.ok()) return status_;
    if (!parsed) return Invalid("has a header that is not valid JSON");
    return std::move(entries_);
  }

  bool key(std::string& key) override {
    if (place_ == Place::kHeader) {
      if (key.size() > kMaxNameBytes) {
        return Fail("has a tensor name of ", key.size(), " bytes; the limit is ", kMaxNameBytes);
      }
      if (!names_.insert(key).second) return Fail("has ", absl::CHexEscape(key), " twice");
      name_ = key;
      return true;
    }
    if (place_ == Place::kMetadata) return true;
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      return FailTensor("a member ", absl::CHexEscape(key.substr(0, kMaxNameBytes)),
                        " that is not known");
    }
    field_ = key;
    if (!entries_.back().fields.insert(key).second) return FailTensor(key, " twice");
    return true;
  }

  bool start_object(size_t) override {
    if (place_ == Place::kStart) {
      place_ = Place::kHeader;
    } else if (place_ == Place::kHeader && name_ == "__metadata__") {
      place_ = Place::kMetadata;
    } else if (place_ == Place::kHeader) {
      place_ = Place::kTensor;
      entries_.emplace_back().name = absl::CHexEscape(name_);
    } else {
      return Misplaced("an object");
    }
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTensor && entries_.back().fields.size() != 3) {
      return FailTensor("not all of dtype, shape and data_offsets");
    }
    place_ = Place::kHeader;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ != Place::kTensor || field_ == "dtype") return Misplaced("an array");
    place_ = field_ == "shape" ? Place::kShape : Place::kOffsets;
    return true;
  }

  bool end_array() override {
    if (place_ == Place::kOffsets && entries_.back().offsets.size() != 2) {
      return FailTensor("not two data_offsets");
    }
    place_ = Place::kTensor;
    return true;
  }

  bool string(std::string& text) override {
    if (place_ == Place::kMetadata) return true;
    if (place_ != Place::kTensor || field_ != "dtype") return Misplaced("a text");
    for (const SafetensorsType& type : kTypes) {
      if (type.name == text) entries_.back().type = &type;
    }
    if (entries_.back().type != nullptr) return true;
    return FailTensor("the unknown type ", absl::CHexEscape(text.substr(0, kMaxNameBytes)));
  }

  bool number_unsigned(uint64_t number) override {
    if (place_ != Place::kShape && place_ != Place::kOffsets) return Misplaced("a number");
    if (number > static_cast<uint64_t>(INT64_MAX)) {
      return FailTensor("the number ", number, "; numbers up to 2^63 - 1 are possible");
    }
    Entry& entry = entries_.back();
    std::vector<int64_t>& numbers = place_ == Place::kShape ? entry.shape : entry.offsets;
    numbers.push_back(static_cast<int64_t>(number));
    if (entry.shape.size() > kMaxDimensions) {
      return FailTensor("more than ", kMaxDimensions, " dimensions");
    }
    if (entry.offsets.size() > 2) return FailTensor("not two data_offsets");
    return true;
  }

  bool null() override { return Misplaced("null"); }
  bool boolean(bool) override { return Misplaced("a boolean"); }
  bool number_integer(int64_t) override { return Misplaced("a negative number"); }
  bool number_float(double, const std::string&) override { return Misplaced("a fraction"); }
  bool binary(Json::binary_t&) override { return Misplaced("binary data"); }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Fail("has a header that is not valid JSON: at its byte ", position);
  }

 private:
  enum class Place { kStart, kHeader, kMetadata, kTensor, kShape, kOffsets };

  template <typename... Parts>
  bool Fail(const Parts&... parts) {
    if (status_.ok()) status_ = Invalid(parts...);
    return false;
  }
  template <typename... Parts>
  bool FailTensor(const Parts&... parts) {
    return Fail("has the tensor ", entries_.back().name, " with ", parts...);
  }
  bool Misplaced(const char* what) {
    if (place_ == Place::kStart) return Fail("has a header that is no JSON object");
    return Fail("has ", what, " in a wrong place of its header: at ", absl::CHexEscape(name_));
  }

  Place place_ = Place::kStart;
  std::string name_;   ///< of the header's member
  std::string field_;  ///< of the tensor's member
  std::set<std::string> names_;
  std::vector<Entry> entries_;
  absl::Status status_;
};

absl::StatusOr<std::vector<Entry>> ReadHeader(std::string_view header) {
  HeaderReader reader;
  const bool parsed = Json::sax_parse(header, &reader);
  return std::move(reader).Finish(parsed);
}

/// Bytes of a tensor by its type and shape.
absl::StatusOr<int64_t> TensorBytes(const Entry& entry) {
  int64_t bytes = entry.type->bytes;
  for (const int64_t size : entry.shape) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) {
      return Invalid("has the tensor ", entry.name, " with more than 2^63 bytes");
    }
  }
  return bytes;
}

/// The data of all tensors lies one behind the other and fills the file.
absl::Status CheckPlacement(const std::vector<Entry>& entries, int64_t data_bytes) {
  int64_t end = 0;
  for (const Entry& entry : entries) {
    const int64_t begin = entry.offsets[0];
    const int64_t entry_end = entry.offsets[1];
    if (begin > entry_end || entry_end > data_bytes) {
      return Invalid("has the tensor ", entry.name, " from byte ", begin, " to ", entry_end,
                     " of its ", data_bytes, " bytes of data");
    }
    if (begin != end) {
      return Invalid("has the tensor ", entry.name, " at byte ", begin,
                     " of its data, where the one before it ends at ", end);
    }
    const absl::StatusOr<int64_t> bytes = TensorBytes(entry);
    if (!bytes.ok()) return bytes.status();
    if (*bytes != entry_end - begin) {
      return Invalid("has the tensor ", entry.name, " with ", entry_end - begin,
                     " bytes, where its type and shape take ", *bytes);
    }
    end = entry_end;
  }
  if (end != data_bytes) {
    return Invalid("has ", data_bytes, " bytes of data, of which its tensors take ", end);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<SafetensorsTensor>> ParseSafetensors(std::span<const std::byte> file) {
  uint64_t header_bytes = 0;
  if (file.size() < sizeof(header_bytes)) {
    return Invalid("is no safetensors file: it has ", file.size(), " bytes");
  }
  std::memcpy(&header_bytes, file.data(), sizeof(header_bytes));
  const std::span<const std::byte> rest = file.subspan(sizeof(header_bytes));
  if (header_bytes > std::min<uint64_t>(rest.size(), kMaxHeaderBytes)) {
    return Invalid("is no safetensors file, or truncated: its header would have ", header_bytes,
                   " bytes; ", rest.size(), " follow, and the limit is ", kMaxHeaderBytes);
  }
  absl::StatusOr<std::vector<Entry>> entries =
      ReadHeader({reinterpret_cast<const char*>(rest.data()), static_cast<size_t>(header_bytes)});
  if (!entries.ok()) return entries.status();
  std::sort(entries->begin(), entries->end(),
            [](const Entry& a, const Entry& b) { return a.offsets < b.offsets; });
  const std::span<const std::byte> data = rest.subspan(header_bytes);
  const absl::Status status = CheckPlacement(*entries, static_cast<int64_t>(data.size()));
  if (!status.ok()) return status;

  std::vector<SafetensorsTensor> tensors;
  tensors.reserve(entries->size());
  for (Entry& entry : *entries) {
    const int64_t bytes = entry.offsets[1] - entry.offsets[0];
    tensors.push_back({std::move(entry.name), entry.type, std::move(entry.shape),
                       data.subspan(entry.offsets[0], bytes)});
  }
  return tensors;
}

}  // namespace winnow

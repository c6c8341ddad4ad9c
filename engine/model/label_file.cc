#include "engine/model/label_file.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/model/fingerprint.h"
#include "kernels/float16.h"
#include "nlohmann/json.hpp"

namespace winnow {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "winnow-labels";
constexpr int kMaxDepth = 8;  // of arrays and objects in each other
constexpr int kVersionWithoutTail = 1;
constexpr int kVersion = 2;
// Larger than the file of any model: one of 126 layers, 8 KV heads of 128 and labels of 64 numbers
// takes 45 MB. Bounds the memory that a hostile file can claim.
constexpr uint64_t kMaxFileBytes = uint64_t{64} << 20;
constexpr int kMaxContext = 1 << 30;
// Budget weights are shares of a budget that is at most the whole context.
constexpr double kMaxBudgetWeight = 1e6;
constexpr double kWeightDecimals = 1e4;

absl::Status Invalid(const std::string& message) { return absl::InvalidArgumentError(message); }

// --- Writing ---------------------------------------------------------------------------------

// Appends little-endian fp16 as base64 to `json`, or says which number does not fit.
absl::Status EncodeMatrix(const std::vector<float>& values, Json* json) {
  std::string bytes;
  bytes.reserve(values.size() * 2);
  for (const float value : values) {
    const uint16_t half = FloatToHalf(value);
    if (!std::isfinite(HalfToFloat(half))) {
      return Invalid(absl::StrCat("the number ", value, " of the basis does not fit into fp16"));
    }
    bytes.push_back(static_cast<char>(half & 0xff));
    bytes.push_back(static_cast<char>(half >> 8));
  }
  std::string text;
  absl::Base64Escape(bytes, &text);
  *json = text;
  return absl::OkStatus();
}

// [rows, columns] as nested arrays of numbers rounded to fp16, so that they stay short.
absl::Status EncodeRanges(const std::vector<float>& values, int columns, Json* json) {
  *json = Json::array();
  for (size_t i = 0; i < values.size(); ++i) {
    if (i % columns == 0) json->push_back(Json::array());
    const float rounded = HalfToFloat(FloatToHalf(values[i]));
    if (!std::isfinite(rounded)) {
      return Invalid(absl::StrCat("the range ", values[i], " does not fit into fp16"));
    }
    json->back().push_back(rounded);
  }
  return absl::OkStatus();
}

// The channel that each column of a one-hot basis [kv_heads, head_dim, width] picks:
// [kv_heads][width].
Json EncodeChannels(const LabelFile& file, const LabelFile::Layer& layer) {
  Json heads = Json::array();
  for (int g = 0; g < file.kv_heads; ++g) {
    Json channels = Json::array();
    for (int j = 0; j < file.width; ++j) {
      int channel = 0;
      const auto at = [&](int c) {
        return layer.key[(static_cast<size_t>(g) * file.head_dim + c) * file.width + j];
      };
      while (channel + 1 < file.head_dim && at(channel) == 0) ++channel;
      channels.push_back(channel);
    }
    heads.push_back(std::move(channels));
  }
  return heads;
}

absl::Status EncodeLayer(const LabelFile& file, const LabelFile::Layer& layer, Json* json) {
  if (layer.empty()) return absl::OkStatus();  // null
  *json = Json::object();
  if (file.basis == "channels") {
    (*json)["channels"] = EncodeChannels(file, layer);
  } else {
    if (absl::Status status = EncodeMatrix(layer.query, &(*json)["query"]); !status.ok()) {
      return status;
    }
    if (absl::Status status = EncodeMatrix(layer.key, &(*json)["key"]); !status.ok()) {
      return status;
    }
  }
  if (absl::Status status = EncodeRanges(layer.low, file.width, &(*json)["low"]); !status.ok()) {
    return status;
  }
  return EncodeRanges(layer.high, file.width, &(*json)["high"]);
}

// [layers][kv_heads]
Json EncodeWeights(const std::vector<float>& weights, int kv_heads) {
  Json layers = Json::array();
  for (size_t i = 0; i < weights.size(); ++i) {
    if (i % kv_heads == 0) layers.push_back(Json::array());
    layers.back().push_back(std::round(weights[i] * kWeightDecimals) / kWeightDecimals);
  }
  return layers;
}

std::string Dump(const Json& json) {
  // A model's name may hold invalid UTF-8; it is for people only.
  return json.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

// One array with each entry on a line of its own, so that files can be read and compared.
std::string DumpLines(const Json& array) {
  std::string text = "[";
  for (size_t i = 0; i < array.size(); ++i) {
    text += absl::StrCat(i == 0 ? "\n    " : ",\n    ", Dump(array[i]));
  }
  return text + "\n  ]";
}

// --- Reading ---------------------------------------------------------------------------------

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status info = std::filesystem::status(path, error);
  if (info.type() == std::filesystem::file_type::not_found) {
    return absl::NotFoundError("there is no such file");
  }
  if (error || info.type() != std::filesystem::file_type::regular) {
    return Invalid("it is not a regular file");
  }
  const uint64_t bytes = std::filesystem::file_size(path, error);
  if (error || bytes > kMaxFileBytes) {
    return Invalid(absl::StrCat("it is larger than ", kMaxFileBytes, " bytes"));
  }
  std::ifstream stream(path, std::ios::binary);
  std::string text(bytes, '\0');
  if (!stream.read(text.data(), static_cast<std::streamsize>(bytes))) {
    return Invalid("it cannot be read");
  }
  return text;
}

// Reads members of one JSON object. The first thing that is wrong is kept as the status, with the
// member's name; what is read after it does not matter.
class Members {
 public:
  Members(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) {
      Fail(where_.empty() ? "it is not a JSON object" : where_ + " is not an object");
    }
  }

  const absl::Status& status() const { return status_; }

  std::string String(const char* name) {
    const Json* value = Find(name);
    if (value == nullptr) return "";
    if (!value->is_string()) {
      Fail(Name(name) + " is not a string");
      return "";
    }
    return value->get<std::string>();
  }

  double Number(const char* name, double min, double max) {
    const Json* value = Find(name);
    if (value == nullptr) return min;
    const std::optional<double> number = InRange(*value, min, max);
    if (!number) Fail(absl::StrCat(Name(name), " is not a number from ", min, " to ", max));
    return number.value_or(min);
  }

  int Int(const char* name, int min, int max) {
    const Json* value = Find(name);
    if (value == nullptr) return min;
    const std::optional<double> number = InRange(*value, min, max);
    if (!number || !value->is_number_integer()) {
      Fail(absl::StrCat(Name(name), " is not a whole number from ", min, " to ", max));
      return min;
    }
    return static_cast<int>(*number);
  }

  // Base64 of little-endian fp16, `elements` of them.
  std::vector<float> Matrix(const char* name, size_t elements) {
    const std::string text = String(name);
    if (!status_.ok()) return {};
    std::string bytes;
    if (!absl::Base64Unescape(text, &bytes)) {
      Fail(Name(name) + " is not base64");
      return {};
    }
    if (bytes.size() != 2 * elements) {
      Fail(absl::StrCat(Name(name), " holds ", bytes.size(), " bytes instead of ", 2 * elements));
      return {};
    }
    std::vector<float> values(elements);
    for (size_t i = 0; i < elements; ++i) {
      const auto low = static_cast<uint8_t>(bytes[2 * i]);
      const auto high = static_cast<uint8_t>(bytes[2 * i + 1]);
      values[i] = HalfToFloat(static_cast<uint16_t>(low | high << 8));
      if (!std::isfinite(values[i])) {
        Fail(Name(name) + " holds a number that is not finite");
        return {};
      }
    }
    return values;
  }

  // A nested array [rows][columns] of numbers in [min, max], flattened.
  std::vector<float> Table(const char* name, int rows, int columns, double min, double max,
                           bool whole = false) {
    const Json* value = Find(name);
    if (value == nullptr) return {};
    const auto wrong = [&] {
      Fail(absl::StrCat(Name(name), " is not an array of ", rows, " arrays of ", columns,
                        whole ? " whole numbers from " : " numbers from ", min, " to ", max));
      return std::vector<float>();
    };
    if (!value->is_array() || value->size() != static_cast<size_t>(rows)) return wrong();
    std::vector<float> table;
    for (const Json& row : *value) {
      if (!row.is_array() || row.size() != static_cast<size_t>(columns)) return wrong();
      for (const Json& cell : row) {
        const std::optional<double> number = InRange(cell, min, max);
        if (!number || (whole && !cell.is_number_integer())) return wrong();
        table.push_back(static_cast<float>(*number));
      }
    }
    return table;
  }

  const Json& Array(const char* name, size_t size) {
    static const Json kEmpty = Json::array();
    const Json* value = Find(name);
    if (value == nullptr) return kEmpty;
    if (!value->is_array() || value->size() != size) {
      Fail(absl::StrCat(Name(name), " is not an array of ", size, " entries"));
      return kEmpty;
    }
    return *value;
  }

  std::string Name(const char* name) const {
    return where_.empty() ? name : absl::StrCat(where_, ".", name);
  }
  void Fail(const std::string& message) {
    if (status_.ok()) status_ = Invalid(message);
  }

 private:
  static std::optional<double> InRange(const Json& value, double min, double max) {
    if (!value.is_number()) return std::nullopt;
    const auto number = value.get<double>();
    if (!(number >= min && number <= max)) return std::nullopt;
    return number;
  }

  const Json* Find(const char* name) {
    if (!status_.ok()) return nullptr;
    const auto found = object_.find(name);
    if (found == object_.end()) {
      Fail(Name(name) + " is missing");
      return nullptr;
    }
    return &*found;
  }

  const Json& object_;
  std::string where_;
  absl::Status status_;
};

absl::Status Differs(const char* what, const std::string& file, const std::string& model) {
  return Invalid(absl::StrCat("it was made for a model whose ", what, " is ", file,
                              "; this model's ", "is ", model));
}

// Says in what the file and the model differ. `layers` is how many the file says that it holds.
absl::Status CheckModel(const LabelFile& file, int layers, const Checkpoint& model) {
  const ModelConfig& config = model.config();
  if (file.architecture != config.architecture) {
    return Differs("architecture", file.architecture, config.architecture);
  }
  const auto differ = [](const char* what, int in_file, int in_model) {
    return Differs(what, absl::StrCat(in_file), absl::StrCat(in_model));
  };
  if (layers != config.layers) return differ("number of layers", layers, config.layers);
  if (file.kv_heads != config.kv_heads) {
    return differ("number of KV heads", file.kv_heads, config.kv_heads);
  }
  if (file.head_dim != config.head_dim) {
    return differ("head size", file.head_dim, config.head_dim);
  }
  const std::string fingerprint = ModelFingerprint(model);
  if (file.model_fingerprint != fingerprint) {
    return Differs("fingerprint", file.model_fingerprint, fingerprint);
  }
  return absl::OkStatus();
}

// Numbers of channels [kv_heads, width] as the one-hot basis [kv_heads, head_dim, width].
absl::StatusOr<std::vector<float>> OneHot(const LabelFile& file, const std::vector<float>& channels,
                                          const std::string& name) {
  std::vector<float> basis(static_cast<size_t>(file.kv_heads) * file.head_dim * file.width);
  for (int g = 0; g < file.kv_heads; ++g) {
    std::vector<bool> taken(file.head_dim);
    for (int j = 0; j < file.width; ++j) {
      const auto channel = static_cast<size_t>(channels[static_cast<size_t>(g) * file.width + j]);
      if (taken[channel]) return Invalid(absl::StrCat(name, " names channel ", channel, " twice"));
      taken[channel] = true;
      basis[(static_cast<size_t>(g) * file.head_dim + channel) * file.width + j] = 1;
    }
  }
  return basis;
}

absl::StatusOr<LabelFile::Layer> DecodeLayer(const Json& json, const LabelFile& file,
                                             size_t index) {
  constexpr double kMaxHalf = 65504;
  Members members(json, absl::StrCat("layers[", index, "]"));
  LabelFile::Layer layer;
  if (file.basis == "channels") {
    const std::vector<float> channels =
        members.Table("channels", file.kv_heads, file.width, 0, file.head_dim - 1, /*whole=*/true);
    if (!members.status().ok()) return members.status();
    absl::StatusOr<std::vector<float>> basis = OneHot(file, channels, members.Name("channels"));
    if (!basis.ok()) return basis.status();
    layer.query = *basis;
    layer.key = *std::move(basis);
  } else {
    const size_t elements = static_cast<size_t>(file.kv_heads) * file.head_dim * file.width;
    layer.query = members.Matrix("query", elements);
    layer.key = members.Matrix("key", elements);
  }
  layer.low = members.Table("low", file.kv_heads, file.width, -kMaxHalf, kMaxHalf);
  layer.high = members.Table("high", file.kv_heads, file.width, -kMaxHalf, kMaxHalf);
  if (!members.status().ok()) return members.status();
  for (size_t i = 0; i < layer.low.size(); ++i) {
    if (!(layer.low[i] < layer.high[i])) {
      return Invalid(members.Name("low") + " holds a number that is not below its `high`");
    }
  }
  return layer;
}

absl::StatusOr<LabelFile> Parse(const std::string& text, const Checkpoint& model) {
  // The library copies members of an object recursively.
  bool too_deep = false;
  const auto keep = [&](int depth, Json::parse_event_t, Json&) {
    too_deep = too_deep || depth > kMaxDepth;
    return !too_deep;
  };
  const Json json = Json::parse(text, keep, /*allow_exceptions=*/false);
  if (too_deep) return Invalid(absl::StrCat("it is nested deeper than ", kMaxDepth, " levels"));
  if (json.is_discarded()) return Invalid("it is not valid JSON");
  Members members(json, "");
  const std::string format = members.String("format");
  if (members.status().ok() && format != kFormat) {
    members.Fail(absl::StrCat("format is not \"", kFormat, "\""));
  }
  const int version = members.Int("version", 1, 1 << 30);
  if (members.status().ok() && version > kVersion) {
    members.Fail(absl::StrCat("its version is ", version, "; the highest known is ", kVersion));
  }
  LabelFile file;
  file.architecture = members.String("architecture");
  file.model_name = members.String("model_name");
  file.model_fingerprint = members.String("model_fingerprint");
  const int layers = members.Int("layer_count", 1, 1 << 16);
  file.kv_heads = members.Int("kv_heads", 1, 1 << 16);
  file.head_dim = members.Int("head_dim", 1, 1 << 16);
  if (!members.status().ok()) return members.status();
  // Sizes are bounded by those of the model from here on.
  if (absl::Status status = CheckModel(file, layers, model); !status.ok()) return status;

  file.width = members.Int("width", 1, std::min(kMaxLabelWidth, file.head_dim));
  if (members.status().ok() && file.width % kLabelWidthMultiple != 0) {
    members.Fail(absl::StrCat("width is not a multiple of ", kLabelWidthMultiple));
  }
  file.basis = members.String("basis");
  if (members.status().ok() && file.basis != "projection" && file.basis != "channels") {
    members.Fail("basis is neither \"projection\" nor \"channels\"");
  }
  file.ranking = members.String("ranking");
  file.text_hash = members.String("text_hash");
  file.calibrated_context = members.Int("calibrated_context", 1, kMaxContext);
  file.budget_sparsity = members.Number("budget_sparsity", 0, kMaxContext);
  file.budget_weights =
      members.Table("budget_weights", layers, file.kv_heads, 1 / kWeightDecimals, kMaxBudgetWeight);
  if (version > kVersionWithoutTail) {
    file.tail_weights = members.Table("tail_weights", layers, file.kv_heads, 0, 1);
  }
  const Json& entries = members.Array("layers", layers);
  if (!members.status().ok()) return members.status();
  for (size_t i = 0; i < entries.size(); ++i) {
    const bool has_window = model.config().layer[i].sliding_window > 0;
    if (has_window != entries[i].is_null()) {
      return Invalid(absl::StrCat("layers[", i, "] is ", has_window ? "not " : "",
                                  "null; layers are null where they have a sliding window"));
    }
    if (has_window) {
      file.layers.emplace_back();
      continue;
    }
    absl::StatusOr<LabelFile::Layer> layer = DecodeLayer(entries[i], file, i);
    if (!layer.ok()) return layer.status();
    file.layers.push_back(*std::move(layer));
  }
  return file;
}

}  // namespace

absl::StatusOr<LabelFile> LabelFile::Read(const std::string& path, const Checkpoint& model) {
  const auto annotated = [&](const absl::Status& status) {
    return absl::Status(status.code(),
                        absl::StrCat("label file ", path, ": ", std::string(status.message())));
  };
  const absl::StatusOr<std::string> text = ReadText(path);
  if (!text.ok()) return annotated(text.status());
  absl::StatusOr<LabelFile> file = Parse(*text, model);
  if (!file.ok()) return annotated(file.status());
  return file;
}

absl::Status LabelFile::Write(const std::string& path) const {
  Json encoded = Json::array();
  for (const Layer& layer : layers) {
    Json json;
    if (absl::Status status = EncodeLayer(*this, layer, &json); !status.ok()) return status;
    encoded.push_back(std::move(json));
  }
  const Json head = {{"format", kFormat},
                     {"version", tail_weights.empty() ? kVersionWithoutTail : kVersion},
                     {"architecture", architecture},
                     {"model_name", model_name},
                     {"model_fingerprint", model_fingerprint},
                     {"layer_count", layers.size()},
                     {"kv_heads", kv_heads},
                     {"head_dim", head_dim},
                     {"width", width},
                     {"basis", basis},
                     {"ranking", ranking},
                     {"text_hash", text_hash},
                     {"calibrated_context", calibrated_context},
                     {"budget_sparsity", budget_sparsity}};
  std::string text = "{\n";
  for (const auto& [name, value] : head.items()) {
    text += absl::StrCat("  \"", name, "\": ", Dump(value), ",\n");
  }
  const auto add_weights = [&](const char* name, const std::vector<float>& weights) {
    text += absl::StrCat("  \"", name, "\": ", DumpLines(EncodeWeights(weights, kv_heads)), ",\n");
  };
  add_weights("budget_weights", budget_weights);
  if (!tail_weights.empty()) add_weights("tail_weights", tail_weights);
  text += absl::StrCat("  \"layers\": ", DumpLines(encoded), "\n}\n");
  std::ofstream stream(path, std::ios::binary | std::ios::trunc);
  stream.write(text.data(), static_cast<std::streamsize>(text.size()));
  stream.close();
  if (!stream) return absl::PermissionDeniedError("can't write " + path);
  return absl::OkStatus();
}

}  // namespace winnow

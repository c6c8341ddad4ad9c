#include "engine/model/folder_quantization.h"

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/model/config_limits.h"
#include "engine/model/json_fields.h"
#include "engine/model/json_file.h"

namespace winnow {
namespace {

/// Refuses a quantization_config for what it asks for.
void Refuse(JsonFields& fields, std::string_view method, std::string_view what) {
  fields.Unimplemented(absl::StrCat("quantization_config of quant_method ", std::string(method),
                                    " is not supported with ", std::string(what)));
}

std::string Quoted(std::string_view key, const std::string& value) {
  return absl::StrCat(std::string(key), " \"", absl::CHexEscape(value), "\"");
}

/// What a key is called by one publisher or another.
std::string_view FirstOf(const JsonFields& fields, std::string_view key, std::string_view other) {
  return fields.Has(key) ? key : other;
}

/// Rows and columns of the blocks that share a scale. Several must be the same.
void ReadBlocks(JsonFields& fields, std::string_view key, FolderQuantization& quantization) {
  const std::vector<double> sizes = fields.Floats(key, 2, 1, kMaxWidth);
  const auto rows = static_cast<int>(sizes[0]);
  const auto columns = static_cast<int>(sizes[1]);
  if (rows != sizes[0] || columns != sizes[1]) {
    fields.Invalid(absl::StrCat(std::string(key), " must be two whole numbers"));
  }
  if (quantization.block_rows != 0 &&
      (rows != quantization.block_rows || columns != quantization.block_columns)) {
    fields.Unimplemented(absl::StrCat(std::string(key), " is not the same in all groups"));
  }
  quantization.block_rows = rows;
  quantization.block_columns = columns;
}

void ReadFp8(JsonFields& fields, FolderQuantization& quantization) {
  quantization.method = FolderQuantization::Method::kFp8;
  const std::string type = fields.String("fmt", "e4m3");
  if (type != "e4m3") Refuse(fields, "fp8", Quoted("fmt", type));
  if (fields.Has("weight_block_size")) ReadBlocks(fields, "weight_block_size", quantization);
}

bool IsFloat8(JsonFields arguments) {
  return arguments.String("type", "int") == "float" && arguments.Int("num_bits", 1, 64, 8) == 8;
}

/// One of compressed-tensors' groups of modules.
void ReadGroup(JsonFields group, FolderQuantization& quantization) {
  constexpr std::string_view kMethod = "compressed-tensors";
  JsonFields weights = group.Object("weights");
  const std::string strategy = weights.String("strategy", "tensor");
  if (!IsFloat8(weights)) {
    Refuse(group, kMethod, "weights of another type than 8-bit float");
  } else if (!weights.Bool("symmetric", true)) {
    Refuse(group, kMethod, "weights that are not symmetric");
  } else if (strategy == "block") {
    ReadBlocks(weights, "block_structure", quantization);
  } else if (strategy != "tensor" && strategy != "channel") {
    Refuse(group, kMethod, Quoted("strategy", strategy));
  }
  // Activations need not be rounded to be multiplied: without it the results are nearer to those
  // of the model that was quantised.
  if (group.Has("input_activations") && !IsFloat8(group.Object("input_activations"))) {
    Refuse(group, kMethod, "input_activations of another type than 8-bit float");
  }
  if (group.Has("output_activations")) Refuse(group, kMethod, "output_activations");
}

void ReadCompressedTensors(JsonFields& fields, FolderQuantization& quantization) {
  constexpr std::string_view kMethod = "compressed-tensors";
  quantization.method = FolderQuantization::Method::kFp8;
  const std::string format = fields.String("format", "float-quantized");
  if (format != "float-quantized" && format != "naive-quantized") {
    Refuse(fields, kMethod, Quoted("format", format));
  }
  if (fields.Has("kv_cache_scheme")) Refuse(fields, kMethod, "kv_cache_scheme");
  if (!fields.Object("transform_config").Keys().empty()) {
    Refuse(fields, kMethod, "transform_config");
  }
  if (fields.Object("sparsity_config").String("format", "dense") != "dense") {
    Refuse(fields, kMethod, "sparsity_config");
  }
  JsonFields groups = fields.Object("config_groups");
  const std::vector<std::string> names = groups.Keys();
  if (names.empty()) fields.Invalid("quantization_config.config_groups names no group");
  for (const std::string& name : names) ReadGroup(groups.Object(name), quantization);
}

/// Bits and groups of AWQ and GPTQ.
void ReadGroupSize(JsonFields& fields, std::string_view key, FolderQuantization& quantization) {
  const int size = fields.Int(key, -1, kMaxWidth, 128);
  if (size == 0) fields.Invalid(absl::StrCat("quantization_config.", std::string(key), " is 0"));
  quantization.group_size = size < 0 ? 0 : size;
}

void ReadAwq(JsonFields& fields, FolderQuantization& quantization) {
  quantization.method = FolderQuantization::Method::kAwq;
  quantization.bits = fields.Int(FirstOf(fields, "bits", "w_bit"), 1, 16, 4);
  if (quantization.bits != 4) Refuse(fields, "awq", absl::StrCat(quantization.bits, " bits"));
  ReadGroupSize(fields, FirstOf(fields, "group_size", "q_group_size"), quantization);
  const std::string version = fields.String(FirstOf(fields, "version", "format"), "gemm");
  if (absl::AsciiStrToLower(version) != "gemm") Refuse(fields, "awq", Quoted("version", version));
  const std::string backend = fields.String("backend", "auto");
  if (backend == "llm-awq") Refuse(fields, "awq", Quoted("backend", backend));
  if (!fields.Bool("zero_point", true)) Refuse(fields, "awq", "zero_point false");
}

void ReadGptq(JsonFields& fields, FolderQuantization& quantization) {
  quantization.method = FolderQuantization::Method::kGptq;
  quantization.bits = fields.Int("bits", 1, 16);
  if (quantization.bits != 4 && quantization.bits != 8) {
    Refuse(fields, "gptq", absl::StrCat(quantization.bits, " bits"));
  }
  ReadGroupSize(fields, "group_size", quantization);
  quantization.is_permuted = fields.Bool("desc_act", false);
  const std::string format = fields.String(FirstOf(fields, "checkpoint_format", "format"), "gptq");
  if (fields.Bool("is_marlin_format", false)) Refuse(fields, "gptq", "is_marlin_format");
  if (format != "gptq" && format != "gptq_v2") {
    Refuse(fields, "gptq", Quoted("checkpoint_format", format));
  }
  quantization.zero_offset = format == "gptq" ? 1 : 0;
}

}  // namespace

absl::StatusOr<FolderQuantization> ReadFolderQuantization(const std::string& folder) {
  const std::string path = (std::filesystem::path(folder) / "config.json").string();
  const absl::StatusOr<nlohmann::json> json = ReadJsonFile(path, kMaxConfigBytes);
  if (!json.ok()) return json.status();
  return ParseFolderQuantization(path, *json);
}

absl::StatusOr<FolderQuantization> ParseFolderQuantization(const std::string& path,
                                                           const nlohmann::json& json) {
  absl::Status status;
  JsonFields whole(path, json, status);
  FolderQuantization quantization;
  if (!whole.Has("quantization_config")) return quantization;
  JsonFields fields = whole.Object("quantization_config");
  const std::string method = fields.String("quant_method", "");
  if (method == "fp8") {
    ReadFp8(fields, quantization);
  } else if (method == "compressed-tensors") {
    ReadCompressedTensors(fields, quantization);
  } else if (method == "awq") {
    ReadAwq(fields, quantization);
  } else if (method == "gptq") {
    ReadGptq(fields, quantization);
  } else {
    fields.Unimplemented(absl::StrCat("quantization_config has ", Quoted("quant_method", method),
                                      ", which is not supported; supported are fp8, "
                                      "compressed-tensors, awq and gptq"));
  }
  if (!status.ok()) return status;
  return quantization;
}

}  // namespace winnow

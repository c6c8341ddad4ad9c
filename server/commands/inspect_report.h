#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "engine/model/kv_layout.h"
#include "engine/text/sampling_defaults.h"
#include "kernels/data_type.h"

namespace winnow {

/// What a file's tensors of one type amount to.
struct TypeTotal {
  DataType type = DataType::kF32;
  int tensors = 0;
  int64_t parameters = 0;
  int64_t bytes = 0;
};

/// A token that the file names for a purpose.
struct NamedToken {
  int32_t id = -1;
  std::string text;
};

/// Everything that `winnow inspect` prints.
struct InspectReport {
  std::string path;
  int64_t file_bytes = 0;
  ModelConfig config;
  int64_t parameters = 0;
  int tensors = 0;
  std::vector<TypeTotal> types;  ///< most bytes first

  std::string tokenizer_model;
  std::string pretokenizer;
  int vocab_size = 0;
  int control_tokens = 0;
  bool adds_bos = false;
  std::optional<NamedToken> bos, eos, unknown;
  std::vector<NamedToken> end_of_generation;
  std::string chat;           ///< "renders", or why there is no chat
  std::string chat_refusals;  ///< what of an ordinary conversation the template refuses, or empty
  SamplingDefaults sampling;  ///< as the model's authors recommend it

  int context_tokens = 0;
  int64_t weight_bytes = 0;     ///< of weights as the CPU backend keeps them
  int64_t embedding_bytes = 0;  ///< of the embedding table, which is read in the mapped file
  int64_t kv_bytes() const { return context_tokens * KvBytesPerToken(config); }
  int64_t total_bytes() const { return weight_bytes + embedding_bytes + kv_bytes(); }
};

/// Reads the model's files, checks them as serving does, and reports; the memory is that of a
/// `context`, 0: as many tokens as the model was trained for. Errors are those of ModelFile::Open;
/// INVALID_ARGUMENT for a context beyond the trained one.
absl::StatusOr<InspectReport> Inspect(const std::string& path, int context);

}  // namespace winnow

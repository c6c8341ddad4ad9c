#include "server/commands/inspect_report.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/model/checkpoint.h"
#include "engine/model/model_spec.h"
#include "engine/text/chat_template.h"
#include "engine/text/vocabulary.h"
#include "kernels/cpu/cpu_backend.h"
#include "server/commands/model_file.h"

namespace winnow {
namespace {

void CountTensors(const Checkpoint& checkpoint, InspectReport& report) {
  std::map<DataType, TypeTotal> totals;
  for (const WeightInfo& tensor : checkpoint.tensors()) {
    int64_t elements = 1;
    for (const int64_t size : tensor.shape) elements *= size;
    TypeTotal& total = totals[tensor.type];
    total.type = tensor.type;
    ++total.tensors;
    total.parameters += elements;
    total.bytes += tensor.bytes;
    report.parameters += elements;
  }
  report.tensors = static_cast<int>(checkpoint.tensors().size());
  for (const auto& [type, total] : totals) report.types.push_back(total);
  std::ranges::sort(report.types, std::ranges::greater(), &TypeTotal::bytes);
}

/// The memory of each tensor that the forward pass reads: matrices repacked, vectors as fp32, the
/// embedding table where it is.
void CountMemory(const Checkpoint& checkpoint, InspectReport& report) {
  const auto matrix_bytes = [](const WeightInfo& tensor) {
    const int64_t rows = tensor.shape[tensor.shape.size() - 2];
    const int64_t matrices = tensor.shape.size() == 3 ? tensor.shape[0] : 1;  // of experts
    return matrices * CpuMatrixBytes(tensor.type, rows, tensor.shape.back());
  };
  const ModelSpec spec = ModelSpec::Of(report.config);
  for (const TensorSpec& expected : spec.tensors) {
    const WeightInfo& tensor = *checkpoint.FindTensor(expected.name);
    if (tensor.shape.size() == 1) {
      report.weight_bytes += tensor.shape[0] * static_cast<int64_t>(sizeof(float));
    } else if (expected.name != spec.embedding) {
      report.weight_bytes += matrix_bytes(tensor);
    } else {
      report.embedding_bytes = tensor.bytes;
      if (report.config.tied_embeddings) report.weight_bytes += matrix_bytes(tensor);
    }
  }
}

void DescribeTokenizer(const ModelFile& model, InspectReport& report) {
  const Vocabulary& vocabulary = model.text.vocabulary;
  const auto named = [&](int32_t id) -> std::optional<NamedToken> {
    if (id < 0) return std::nullopt;
    return NamedToken{id, vocabulary.tokens[id]};
  };
  report.tokenizer_model = vocabulary.model;
  report.pretokenizer = vocabulary.pretokenizer;
  report.vocab_size = static_cast<int>(vocabulary.tokens.size());
  report.control_tokens =
      static_cast<int>(std::ranges::count(vocabulary.types, TokenType::kControl));
  report.adds_bos =
      !model.text.tokenizer->Encode("", /*parse_special=*/true, /*add_bos=*/true).empty();
  report.bos = named(vocabulary.bos_token);
  report.eos = named(vocabulary.eos_token);
  report.unknown = named(vocabulary.unknown_token);
  for (const int32_t id : vocabulary.end_of_generation) {
    report.end_of_generation.push_back(*named(id));
  }
}

/// Tries the chat template with a user's message, and with what else conversations hold.
void DescribeChat(const absl::StatusOr<ChatTemplate>& chat, InspectReport& report) {
  if (!chat.ok()) {
    report.chat = std::string(chat.status().message());
    return;
  }
  const ChatMessage system = {.role = "system", .content = "Be brief."};
  const ChatMessage user = {.role = "user", .content = "Hello"};
  const Tool tool = {.name = "clock", .description = "Tells the time.", .parameters = "{}"};
  const ChatMessage call = {
      .role = "assistant", .tool_calls = {{.id = "call12345", .name = "clock", .arguments = "{}"}}};
  const ChatMessage result = {
      .role = "tool", .content = "12:00", .tool_call_id = "call12345", .name = "clock"};
  const auto refusal = [&](const Conversation& conversation) {
    return std::string(chat->Render(conversation, absl::Now()).status().message());
  };
  const std::string alone = refusal({.messages = {user}});
  report.chat = alone.empty() ? "renders" : alone;
  const auto add = [&](const char* what, const std::string& why) {
    if (why.empty()) return;
    absl::StrAppend(&report.chat_refusals, report.chat_refusals.empty() ? "" : "; ", what, ": ",
                    why);
  };
  add("a system message", refusal({.messages = {system, user}}));
  add("tools", refusal({.messages = {user}, .tools = {tool}}));
  add("a tool's result", refusal({.messages = {user, call, result}, .tools = {tool}}));
}

}  // namespace

absl::StatusOr<InspectReport> Inspect(const std::string& path, int context) {
  const absl::StatusOr<ModelFile> model = ModelFile::Open(path);
  if (!model.ok()) return model.status();
  InspectReport report;
  report.path = path;
  const Checkpoint& checkpoint = *model->checkpoint;
  report.file_bytes = checkpoint.file_bytes();
  report.config = checkpoint.config();
  report.context_tokens = context > 0 ? context : report.config.max_context;
  if (report.context_tokens > report.config.max_context) {
    return absl::InvalidArgumentError(absl::StrCat("--context ", context, " is beyond the ",
                                                   report.config.max_context,
                                                   " tokens that the model was trained for"));
  }
  CountTensors(checkpoint, report);
  CountMemory(checkpoint, report);
  DescribeTokenizer(*model, report);
  DescribeChat(model->chat, report);
  report.sampling = model->text.sampling;
  return report;
}

}  // namespace winnow

// A request of any bytes, as gRPC hands it over: the first byte chooses the message and the
// server's limits, the rest is the message.

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/check.h"
#include "engine/request/request_check.h"
#include "server/grpc/message.h"
#include "server/grpc/prompt.h"
#include "server/grpc/request_validation.h"
#include "server/grpc/status_mapping.h"
#include "tests/server/fake_tokenizer.h"

namespace winnow {
namespace {

constexpr int kContext = 100;
constexpr int kMaxSequences = 8;
/// What clients and proxies take of a response's headers unless they are told otherwise.
constexpr size_t kMaxMetadataBytes = 8192;

class Server {
 public:
  explicit Server(bool restricted) {
    model_ = {.name = "m",
              .title = "",
              .architecture = "",
              .context_tokens = kContext,
              .trained_context_tokens = kContext,
              .max_sequences = kMaxSequences,
              .attention = {.default_policy = {.kind = SelectionKind::kLabels, .sparsity = 8},
                            .min_sparsity = restricted ? 2.0 : 1.0,
                            .max_sparsity = 32,
                            .has_labels = true},
              .tokenizer = &tokenizer_,
              .chat = std::nullopt};
    if (!restricted)
      model_.chat = ChatTemplate::Create({.jinja = "{{ messages }}{{ tools }}"}).value();
  }

  const ServedModel& model() const { return model_; }

 private:
  FakeTokenizer tokenizer_;
  ServedModel model_;
};

/// A refusal reaches the client: with a description, and within what fits into headers.
void CheckRefusal(const grpc::Status& status) {
  WINNOW_CHECK(!status.ok() && !status.error_message().empty());
  // The message travels percent-encoded, the details in base64.
  size_t bytes = status.error_details().size() * 4 / 3;
  for (const char c : status.error_message()) bytes += c >= ' ' && c <= '~' && c != '%' ? 1 : 3;
  WINNOW_CHECK(bytes < kMaxMetadataBytes);
}

void CheckViolations(const std::vector<FieldViolation>& violations) {
  if (violations.empty()) return;
  for (const FieldViolation& violation : violations) {
    WINNOW_CHECK(!violation.field.empty() && !violation.description.empty());
  }
  CheckRefusal(ToGrpcStatus(Invalid(violations)));
}

/// What the engine relies on.
void CheckAccepted(const Request& request, const ServedModel& model) {
  const EngineOptions options = {.kv_blocks = 16,  // more than a sequence of the whole context
                                 .max_context = kContext,
                                 .max_running_sequences = kMaxSequences};
  WINNOW_CHECK(CheckRequest(request, options, model.tokenizer->vocab_size()).ok());
  WINNOW_CHECK(static_cast<int>(request.prompt_tokens.size()) + request.max_tokens <= kContext);
  WINNOW_CHECK(request.n <= MaxContinuations(model));
  WINNOW_CHECK(request.stop.size() <= static_cast<size_t>(model.limits.stop_strings));
  for (const std::string& stop : request.stop) {
    WINNOW_CHECK(!stop.empty() && stop.size() <= static_cast<size_t>(kMaxStopStringBytes));
  }
  WINNOW_CHECK(request.stop_token_ids.size() <= static_cast<size_t>(kMaxStopTokenIds));
  WINNOW_CHECK(request.top_logprobs >= 0 && request.top_logprobs <= kMaxTopLogprobs);
  WINNOW_CHECK(request.cache_salt.size() <= kMaxSaltBytes);
  const SamplingParams& sampling = request.sampling;
  WINNOW_CHECK(sampling.logit_bias.size() <= static_cast<size_t>(model.limits.logit_bias_entries));
  WINNOW_CHECK(sampling.temperature >= 0 && sampling.temperature <= 100);
  WINNOW_CHECK(sampling.top_k >= 0);
  WINNOW_CHECK(sampling.top_p > 0 && sampling.top_p <= 1);
  WINNOW_CHECK(sampling.min_p >= 0 && sampling.min_p < 1);
  WINNOW_CHECK(sampling.repetition_penalty >= 0.01f && sampling.repetition_penalty <= 10);
  WINNOW_CHECK(std::abs(sampling.presence_penalty) <= 2);
  WINNOW_CHECK(std::abs(sampling.frequency_penalty) <= 2);
  const AttentionLimits& limits = model.attention;
  if (request.attention.kind == SelectionKind::kAll) {
    WINNOW_CHECK(limits.min_sparsity == 1);
  } else if (request.attention.budget_tokens == 0) {
    WINNOW_CHECK(request.attention.sparsity >= limits.min_sparsity &&
                 request.attention.sparsity <= limits.max_sparsity);
  } else {
    WINNOW_CHECK(request.attention.budget_tokens <= kContext / limits.min_sparsity);
  }
}

void Generate(const v1::GenerateRequest& message, const ServedModel& model) {
  if (const absl::Status status = CheckModelName(message.model(), model); !status.ok()) {
    return CheckRefusal(ToGrpcStatus(EndOf(status)));
  }
  Request request;
  const std::vector<FieldViolation> violations =
      ValidateGenerate(message, model, /*cancelled=*/false, &request);
  CheckViolations(violations);
  if (violations.empty()) CheckAccepted(request, model);
}

void Tokenize(const v1::TokenizeRequest& message, const ServedModel& model) {
  std::vector<int32_t> tokens;
  CheckViolations(ReadInput(message, model, /*cancelled=*/false, &tokens));
  for (const int32_t token : tokens) {
    WINNOW_CHECK(token >= 0 && token < model.tokenizer->vocab_size());
  }
}

void Detokenize(const v1::DetokenizeRequest& message, const ServedModel& model) {
  const std::vector<FieldViolation> violations = ValidateDetokenize(message, model);
  CheckViolations(violations);
  if (!violations.empty()) return;
  Detokenizer detokenizer(*model.tokenizer, message.render_special(), /*at_text_start=*/true);
  for (const int32_t token : message.token_ids()) detokenizer.Append(token);
}

/// Calls `use` with the message, if the bytes are one; else a refusal says why not.
template <typename Message, typename Use>
void Parse(const uint8_t* data, size_t size, const Server& server, Use use) {
  const grpc::Slice slice(data, size);
  Message message;
  const std::vector<FieldViolation> violations =
      ParseMessage(grpc::ByteBuffer(&slice, 1), &message);
  WINNOW_CHECK(violations.empty() == Message().ParseFromArray(data, static_cast<int>(size)));
  CheckViolations(violations);
  if (violations.empty()) use(message, server.model());
}

}  // namespace
}  // namespace winnow

extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  // It logs every message that is no protobuf.
  google::protobuf::SetLogHandler(nullptr);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace winnow;
  static const Server open(/*restricted=*/false), restricted(/*restricted=*/true);
  if (size == 0) return 0;
  const Server& server = data[0] & 4 ? restricted : open;
  switch (data[0] & 3) {
    case 0:
      Parse<v1::TokenizeRequest>(data + 1, size - 1, server, Tokenize);
      break;
    case 1:
      Parse<v1::DetokenizeRequest>(data + 1, size - 1, server, Detokenize);
      break;
    default:
      Parse<v1::GenerateRequest>(data + 1, size - 1, server, Generate);
      break;
  }
  return 0;
}

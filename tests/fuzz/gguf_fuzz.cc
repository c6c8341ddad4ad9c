// A model file of any bytes: the reader, and what is made of a file that it accepts: configuration,
// tokenizer, chat template, and for small ones the loaded model itself, which computes a prompt.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "engine/base/check.h"
#include "engine/cache/kv_pools.h"
#include "engine/eval/sequence_runner.h"
#include "engine/model/config.h"
#include "engine/model/gguf_parser.h"
#include "engine/model/kv_layout.h"
#include "engine/model/transformer.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/data_type.h"
#include "tests/fuzz/memory_file.h"

namespace winnow {
namespace {

/// Larger models take too long to load and to compute.
constexpr int64_t kMaxLoadedBytes = 1 << 18;
constexpr int kBlockTokens = 32;
constexpr int kPromptTokens = 5;

void CheckTensors(const GgufContents& contents, std::span<const std::byte> file) {
  for (const GgufFile::Tensor& tensor : contents.tensors) {
    WINNOW_CHECK(tensor.data.data() >= file.data());
    WINNOW_CHECK(tensor.data.data() + tensor.data.size() <= file.data() + file.size());
    WINNOW_CHECK(!tensor.shape.empty() && tensor.shape.size() <= 4);
    // Counted down from what the data holds, so that no product can overflow.
    const auto blocks = static_cast<int64_t>(tensor.data.size()) / BlockBytes(tensor.type);
    int64_t left = blocks * BlockElements(tensor.type);
    for (const int64_t size : tensor.shape) {
      WINNOW_CHECK(size > 0 && left % size == 0);
      left /= size;
    }
    WINNOW_CHECK(left == 1);
    WINNOW_CHECK(tensor.shape.back() % BlockElements(tensor.type) == 0);
  }
  for (const auto& [name, index] : contents.tensor_index) {
    WINNOW_CHECK(contents.tensors.at(index).name == name);
  }
}

void UseText(const GgufFile& file) {
  if (const auto tokenizer = Tokenizer::FromGguf(file); tokenizer.ok()) {
    for (const int32_t token : (*tokenizer)->Encode("Hello, wörld <s>\n", true, true)) {
      WINNOW_CHECK(token >= 0 && token < (*tokenizer)->vocab_size());
      (*tokenizer)->TokenBytes(token, true);
    }
  }
  if (const auto jinja = file.GetString("tokenizer.chat_template"); jinja.ok()) {
    if (const auto chat = ChatTemplate::Create({.jinja = *jinja}); chat.ok()) {
      const Conversation conversation = {.messages = {{.role = "system", .content = "Be kind."},
                                                      {.role = "user", .content = "x"}}};
      (void)chat->Render(conversation, absl::UnixEpoch());
    }
  }
}

void Compute(const GgufFile& file, const ModelConfig& config) {
  static const std::unique_ptr<Backend> backend = CreateCpuBackend({.threads = 1});
  const auto pools =
      KvPools::Allocate(*backend, KvLayout(config, {.blocks = 1, .block_tokens = kBlockTokens}));
  if (!pools.ok()) return;
  const auto model =
      Transformer::Load(file, config, *backend, **pools, {.max_step_tokens = kBlockTokens});
  if (!model.ok()) return;
  std::vector<int32_t> prompt(std::min(kPromptTokens, config.max_context));
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int32_t>(i) % config.vocab;
  int visited = 0;
  SequenceRunner runner(**model, {0}, kBlockTokens);
  const absl::Status status = runner.Compute(
      {.tokens = prompt, .logits_from = 0, .visit = [&](int, std::span<const float> logits) {
         WINNOW_CHECK(logits.size() == static_cast<size_t>(config.vocab));
         ++visited;
       }});
  WINNOW_CHECK(status.ok() && visited == static_cast<int>(prompt.size()));
}

}  // namespace
}  // namespace winnow

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace winnow;
  static MemoryFile memory;
  const std::span<const std::byte> bytes = std::as_bytes(std::span(data, size));
  // On the heap as the fuzzer has it, where AddressSanitizer sees reads behind the end.
  const auto contents = ParseGguf(bytes);
  if (!contents.ok()) return 0;
  CheckTensors(*contents, bytes);

  memory.Set(bytes);
  const auto file = GgufFile::Open(memory.path());
  if (!file.ok()) return 0;  // part of a model
  UseText(**file);
  const auto config = ModelConfig::FromGguf(**file);
  if (config.ok() && (*file)->file_bytes() <= kMaxLoadedBytes) Compute(**file, *config);
  return 0;
}

#include "engine/model/transformer.h"

#include <algorithm>
#include <cassert>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace winnow {
namespace {

// Output rows that are multiplied with the output matrix at once: bounds the logits' memory.
constexpr int kLogitRows = 64;

// The first rows of a tensor.
Tensor Rows(const Tensor& tensor, int64_t rows) {
  return {tensor.data, rows, tensor.columns, tensor.stride};
}

const float* Floats(const std::unique_ptr<Buffer>& buffer) {
  return buffer ? reinterpret_cast<const float*>(buffer->data()) : nullptr;
}

// Reads weights by name. The config's reader has checked that they are there and have their shapes.
class WeightReader {
 public:
  WeightReader(const GgufFile& file, Backend& backend) : file_(file), backend_(backend) {}

  HostMatrix Host(const std::string& name) const {
    const GgufFile::Tensor* tensor = file_.FindTensor(name);
    assert(tensor != nullptr);
    const int64_t rows = tensor->shape.size() > 1 ? tensor->shape[0] : 1;
    return {tensor->type, rows, tensor->shape.back(), tensor->data};
  }

  // The named matrices, stacked along their rows.
  absl::Status ReadMatrix(const std::vector<std::string>& names, std::unique_ptr<Matrix>* out) {
    std::vector<HostMatrix> parts;
    for (const std::string& name : names) parts.push_back(Host(name));
    absl::StatusOr<std::unique_ptr<Matrix>> matrix = backend_.LoadMatrix(parts);
    if (!matrix.ok()) return Annotate(matrix.status(), names[0]);
    *out = *std::move(matrix);
    return absl::OkStatus();
  }

  // The named vectors, one after another, widened to fp32.
  absl::Status ReadVector(const std::vector<std::string>& names, std::unique_ptr<Buffer>* out) {
    std::vector<float> values;
    for (const std::string& name : names) {
      const HostMatrix part = Host(name);
      values.resize(values.size() + part.columns);
      Dequantize(part.type, part.data.data(), part.columns, &*(values.end() - part.columns));
    }
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(float));
    absl::StatusOr<std::unique_ptr<Buffer>> buffer = backend_.Allocate(bytes);
    if (!buffer.ok()) return Annotate(buffer.status(), names[0]);
    backend_.Copy((*buffer)->data(), reinterpret_cast<const std::byte*>(values.data()), bytes);
    *out = *std::move(buffer);
    return absl::OkStatus();
  }

 private:
  static absl::Status Annotate(const absl::Status& status, const std::string& name) {
    return absl::Status(status.code(),
                        absl::StrCat("tensor ", name, ": ", std::string(status.message())));
  }

  const GgufFile& file_;
  Backend& backend_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Transformer>> Transformer::Load(const GgufFile& file,
                                                               const ModelConfig& config,
                                                               Backend& backend,
                                                               const KvOptions& kv) {
  std::unique_ptr<Transformer> transformer(new Transformer(config, backend));
  if (absl::Status status = transformer->LoadWeights(file); !status.ok()) return status;
  if (absl::Status status = transformer->AllocateState(kv); !status.ok()) return status;
  file.ReleasePages();
  return transformer;
}

absl::Status Transformer::LoadWeights(const GgufFile& file) {
  WeightReader reader(file, backend_);
  rope_frequencies_.assign(config_.rope_frequencies.begin(), config_.rope_frequencies.end());
  absl::StatusOr<std::unique_ptr<Matrix>> table =
      backend_.LoadEmbedding(reader.Host("token_embd.weight"));
  if (!table.ok()) return table.status();
  embedding_ = *std::move(table);

  absl::Status status;
  layers_.resize(config_.layers);
  for (int l = 0; l < config_.layers && status.ok(); ++l) {
    Layer& layer = layers_[l];
    const auto name = [l](const char* part) { return absl::StrCat("blk.", l, ".", part); };
    status.Update(reader.ReadVector({name("attn_norm.weight")}, &layer.attention_norm));
    status.Update(reader.ReadMatrix(
        {name("attn_q.weight"), name("attn_k.weight"), name("attn_v.weight")}, &layer.qkv));
    if (config_.qkv_bias) {
      status.Update(reader.ReadVector(
          {name("attn_q.bias"), name("attn_k.bias"), name("attn_v.bias")}, &layer.qkv_bias));
    }
    status.Update(reader.ReadMatrix({name("attn_output.weight")}, &layer.attention_out));
    status.Update(reader.ReadVector({name("ffn_norm.weight")}, &layer.ffn_norm));
    status.Update(
        reader.ReadMatrix({name("ffn_gate.weight"), name("ffn_up.weight")}, &layer.gate_up));
    status.Update(reader.ReadMatrix({name("ffn_down.weight")}, &layer.down));
  }
  status.Update(reader.ReadVector({"output_norm.weight"}, &output_norm_));
  const char* output = config_.tied_embeddings ? "token_embd.weight" : "output.weight";
  status.Update(reader.ReadMatrix({output}, &output_));
  return status;
}

absl::Status Transformer::AllocateState(const KvOptions& kv) {
  kv_ = {nullptr, config_.layers, kv.blocks, config_.kv_heads, kv.block_tokens, config_.head_dim};
  absl::StatusOr<std::unique_ptr<Buffer>> memory = backend_.Allocate(kv_.bytes());
  if (!memory.ok()) return memory.status();
  kv_memory_ = *std::move(memory);
  kv_.data = kv_memory_->data();

  const int64_t query_columns = int64_t{config_.heads} * config_.head_dim;
  const int64_t qkv_columns = query_columns + int64_t{2} * config_.kv_heads * config_.head_dim;
  struct Slot {
    Tensor* tensor;
    int64_t rows;
    int64_t columns;
  };
  const int64_t rows = std::max(kv.max_step_tokens, kLogitRows);
  const Slot slots[] = {
      {&residual_, rows, config_.hidden},
      {&normed_, rows, config_.hidden},
      {&qkv_, rows, qkv_columns},
      {&attended_, rows, query_columns},
      {&gate_up_, rows, int64_t{2} * config_.ffn},
      {&ffn_, rows, config_.ffn},
      {&logits_, kLogitRows, config_.vocab},
  };
  int64_t elements = 0;
  for (const Slot& slot : slots) elements += slot.rows * slot.columns;
  absl::StatusOr<std::unique_ptr<Buffer>> buffer =
      backend_.Allocate(elements * static_cast<int64_t>(sizeof(float)));
  if (!buffer.ok()) return buffer.status();
  activations_ = *std::move(buffer);
  auto* next = reinterpret_cast<float*>(activations_->data());
  for (const Slot& slot : slots) {
    *slot.tensor = {next, slot.rows, slot.columns, slot.columns};
    next += slot.rows * slot.columns;
  }
  return absl::OkStatus();
}

absl::Status Transformer::Forward(const StepBatch& batch, std::span<float> logits) {
  const int rows = batch.rows();
  const Tensor x = Rows(residual_, rows);
  const Tensor normed = Rows(normed_, rows);
  const Tensor qkv = Rows(qkv_, rows);
  const Tensor attended = Rows(attended_, rows);
  const Tensor gate_up = Rows(gate_up_, rows);
  const Tensor ffn = Rows(ffn_, rows);
  const float epsilon = config_.norm_epsilon;

  backend_.Embed(*embedding_, batch.tokens, x);
  for (int l = 0; l < config_.layers; ++l) {
    const Layer& layer = layers_[l];
    backend_.RmsNorm(x, Floats(layer.attention_norm), epsilon, normed);
    backend_.MatMul(normed, *layer.qkv, Floats(layer.qkv_bias), /*accumulate=*/false, qkv);
    backend_.RopeAndStoreKv(batch, qkv, config_.heads, config_.rope_pairing, rope_frequencies_, kv_,
                            l);
    if (layer_observer_) layer_observer_(l, qkv, x);
    backend_.Attention(batch, qkv, config_.heads, kv_, l, attended);
    backend_.MatMul(attended, *layer.attention_out, nullptr, /*accumulate=*/true, x);

    backend_.RmsNorm(x, Floats(layer.ffn_norm), epsilon, normed);
    backend_.MatMul(normed, *layer.gate_up, nullptr, /*accumulate=*/false, gate_up);
    backend_.SwiGlu(gate_up, ffn);
    backend_.MatMul(ffn, *layer.down, nullptr, /*accumulate=*/true, x);
  }
  for (size_t first = 0; first < batch.logit_rows.size(); first += kLogitRows) {
    const size_t count = std::min<size_t>(kLogitRows, batch.logit_rows.size() - first);
    const auto round = static_cast<int64_t>(count);
    // The normed activations of the layers are not needed any more; a round has no more rows.
    const Tensor last = Rows(normed_, round);
    backend_.GatherRows(x, batch.logit_rows.subspan(first, count), last);
    backend_.RmsNorm(last, Floats(output_norm_), epsilon, last);
    backend_.MatMul(last, *output_, nullptr, /*accumulate=*/false, Rows(logits_, round));
    backend_.CopyToHost(Rows(logits_, round), logits.data() + first * config_.vocab);
  }
  return backend_.Synchronize();
}

absl::Status Transformer::CopyBlock(int32_t from, int32_t to, int tokens) {
  const int64_t row_bytes = int64_t{config_.head_dim} * static_cast<int64_t>(sizeof(uint16_t));
  const int64_t head_bytes = kv_.head_block_elements() * static_cast<int64_t>(sizeof(uint16_t));
  for (int l = 0; l < config_.layers; ++l) {
    for (int head = 0; head < 2 * config_.kv_heads; ++head) {
      backend_.Copy(kv_.block(l, to) + head * head_bytes, kv_.block(l, from) + head * head_bytes,
                    tokens * row_bytes);
    }
  }
  return backend_.Synchronize();
}

int64_t Transformer::weight_bytes() const {
  int64_t bytes = output_->bytes();
  for (const Layer& layer : layers_) {
    for (const Matrix* w : layer.matrices()) bytes += w->bytes();
  }
  return bytes;
}

int64_t Transformer::layer_weights() const {
  int64_t weights = 0;
  for (const Layer& layer : layers_) {
    for (const Matrix* w : layer.matrices()) weights += w->rows() * w->columns();
  }
  return weights;
}

}  // namespace winnow

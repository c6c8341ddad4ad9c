#include "engine/model/transformer.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace winnow {
namespace {

// Output rows that are multiplied with the output matrix at once: bounds the logits' memory.
constexpr int kLogitRows = 64;
constexpr int64_t kActivationAlignment = 256;  // bytes

// The first rows of a tensor.
Tensor Rows(const Tensor& tensor, int64_t rows) {
  return {tensor.data, rows, tensor.columns, tensor.stride, tensor.type};
}

// Host numbers in device memory.
absl::StatusOr<std::unique_ptr<Buffer>> Upload(std::span<const float> values, Backend& backend) {
  const auto bytes = static_cast<int64_t>(values.size_bytes());
  absl::StatusOr<std::unique_ptr<Buffer>> buffer = backend.Allocate(bytes);
  if (!buffer.ok()) return buffer.status();
  backend.Copy((*buffer)->data(), reinterpret_cast<const std::byte*>(values.data()), bytes);
  return buffer;
}

const float* Floats(const std::unique_ptr<Buffer>& buffer) {
  return buffer ? reinterpret_cast<const float*>(buffer->data()) : nullptr;
}

// Brings weights to the backend by name.
class WeightReader {
 public:
  WeightReader(const WeightSource& source, Backend& backend) : source_(source), backend_(backend) {}

  // The named matrices, stacked along their rows.
  absl::Status ReadMatrix(const std::vector<std::string>& names, std::unique_ptr<Matrix>* out) {
    std::vector<HostMatrix> parts;
    for (const std::string& name : names) parts.push_back(source_.Weight(name));
    absl::StatusOr<std::unique_ptr<Matrix>> matrix = backend_.LoadMatrix(parts);
    if (!matrix.ok()) return Annotate(matrix.status(), names[0]);
    *out = *std::move(matrix);
    return absl::OkStatus();
  }

  // The named vectors, one after another, widened to fp32.
  absl::Status ReadVector(const std::vector<std::string>& names, std::unique_ptr<Buffer>* out) {
    std::vector<float> values;
    for (const std::string& name : names) {
      const HostMatrix part = source_.Weight(name);
      values.resize(values.size() + part.columns);
      Dequantize(part.type, part.data.data(), part.columns, &*(values.end() - part.columns));
    }
    absl::StatusOr<std::unique_ptr<Buffer>> buffer = Upload(values, backend_);
    if (!buffer.ok()) return Annotate(buffer.status(), names[0]);
    *out = *std::move(buffer);
    return absl::OkStatus();
  }

 private:
  static absl::Status Annotate(const absl::Status& status, const std::string& name) {
    return absl::Status(status.code(),
                        absl::StrCat("tensor ", name, ": ", std::string(status.message())));
  }

  const WeightSource& source_;
  Backend& backend_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Transformer>> Transformer::Load(const WeightSource& weights,
                                                               const ModelConfig& config,
                                                               Backend& backend, KvPools& pools,
                                                               const TransformerOptions& options) {
  for (int l = 0; l < pools.layers(); ++l) {
    absl::Status status = backend.CheckAttention(config.heads, pools.Layer(l));
    if (!status.ok()) return status;
  }
  std::unique_ptr<Transformer> transformer(new Transformer(config, backend, pools));
  absl::Status status = transformer->LoadWeights(weights);
  if (status.ok()) status = transformer->AllocateActivations(options.max_step_tokens);
  if (status.ok() && options.labels != nullptr) status = transformer->LoadLabels(*options.labels);
  if (!status.ok()) return status;
  transformer->MakeSelectors(options.selection);
  weights.ReleasePages();
  return transformer;
}

absl::Status Transformer::LoadWeights(const WeightSource& weights) {
  WeightReader reader(weights, backend_);
  absl::StatusOr<std::unique_ptr<Buffer>> frequencies =
      Upload(std::vector<float>(config_.rope_frequencies.begin(), config_.rope_frequencies.end()),
             backend_);
  if (!frequencies.ok()) return frequencies.status();
  rope_frequencies_ = *std::move(frequencies);
  absl::StatusOr<std::unique_ptr<Matrix>> table =
      backend_.LoadEmbedding(weights.Weight("token_embd.weight"));
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

absl::Status Transformer::AllocateActivations(int max_step_tokens) {
  const int64_t query_columns = int64_t{config_.heads} * config_.head_dim;
  const int64_t qkv_columns = query_columns + int64_t{2} * config_.kv_heads * config_.head_dim;
  struct Slot {
    Tensor* tensor;
    int64_t rows;
    int64_t columns;
    DataType type;

    int64_t bytes() const {
      return (rows * RowBytes(type, columns) + kActivationAlignment - 1) / kActivationAlignment *
             kActivationAlignment;
    }
  };
  const int64_t rows = std::max(max_step_tokens, kLogitRows);
  const DataType type = backend_.activation_type();
  const Slot slots[] = {
      {&residual_, rows, config_.hidden, DataType::kF32},
      {&normed_, rows, config_.hidden, type},
      {&qkv_, rows, qkv_columns, DataType::kF32},
      {&attended_, rows, query_columns, type},
      {&gate_up_, rows, int64_t{2} * config_.ffn, type},
      {&ffn_, rows, config_.ffn, type},
      {&logit_input_, kLogitRows, config_.hidden, DataType::kF32},
      {&logits_, kLogitRows, config_.vocab, DataType::kF32},
  };
  int64_t bytes = 0;
  for (const Slot& slot : slots) bytes += slot.bytes();
  absl::StatusOr<std::unique_ptr<Buffer>> buffer = backend_.Allocate(bytes);
  if (!buffer.ok()) return buffer.status();
  activations_ = *std::move(buffer);
  std::byte* next = activations_->data();
  for (const Slot& slot : slots) {
    *slot.tensor = {next, slot.rows, slot.columns, slot.columns, slot.type};
    next += slot.bytes();
  }
  return absl::OkStatus();
}

absl::Status Transformer::LoadLabels(const LabelFile& file) {
  budget_weights_ = file.budget_weights;

  // Fold the ranges into the matrices, so that a label comes out in steps of its range.
  std::vector<float> values;
  for (const LabelFile::Layer& layer : file.layers) {
    const auto step = [&](size_t i) { return (layer.high[i] - layer.low[i]) / 15; };
    const size_t width = static_cast<size_t>(file.width);
    const size_t head = static_cast<size_t>(file.head_dim) * width;
    const auto step_of = [&](size_t element) {  // of an element of a matrix
      return step(element / head * width + element % width);
    };
    for (size_t i = 0; i < layer.key.size(); ++i) values.push_back(layer.key[i] / step_of(i));
    for (size_t i = 0; i < layer.query.size(); ++i) values.push_back(layer.query[i] * step_of(i));
    for (size_t i = 0; i < layer.low.size(); ++i) values.push_back(-layer.low[i] / step(i));
  }
  absl::StatusOr<std::unique_ptr<Buffer>> bases = Upload(values, backend_);
  if (!bases.ok()) return bases.status();
  label_bases_ = *std::move(bases);
  return absl::OkStatus();
}

void Transformer::MakeSelectors(const SelectionOptions& options) {
  const float* basis = Floats(label_bases_);
  for (int l = 0; l < config_.layers; ++l) {
    LayerSelector selector;
    selector.sinks = options.sinks;
    selector.window = options.window;
    selector.min_context =
        l < options.dense_layers ? std::numeric_limits<int32_t>::max() : options.min_context;
    if (basis != nullptr) {
      const int64_t ranges = int64_t{config_.kv_heads} * pools_.Layer(l).label_width;
      const int64_t matrix = ranges * config_.head_dim;
      selector.basis = {basis, basis + matrix, basis + 2 * matrix};
      basis += 2 * matrix + ranges;
      if (!options.uniform_budgets) {
        selector.budget_weights = budget_weights_.data() + int64_t{l} * config_.kv_heads;
      }
    }
    selectors_.push_back(selector);
  }
}

absl::Status Transformer::Forward(const StepBatch& batch, std::span<float> logits,
                                  std::span<float> recalls) {
  Compute(batch, recalls, [&](int first, const Tensor& rows) {
    backend_.CopyToHost(rows, logits.data() + int64_t{first} * config_.vocab);
  });
  return backend_.Synchronize();
}

absl::Status Transformer::ForwardAndChoose(const StepBatch& batch,
                                           std::span<const TokenChoice> choices,
                                           std::span<int32_t> tokens, std::span<float> logits,
                                           std::span<float> recalls) {
  size_t next = 0;
  Compute(batch, recalls, [&](int first, const Tensor& rows) {
    if (!logits.empty()) {
      backend_.CopyToHost(rows, logits.data() + int64_t{first} * config_.vocab);
    }
    const size_t begin = next;
    while (next < choices.size() && choices[next].row < first + rows.rows) ++next;
    backend_.ChooseTokens(rows, first, choices.subspan(begin, next - begin), &tokens[begin]);
  });
  return backend_.Synchronize();
}

// Lets `take` have the logits, some rows at a time, with the first one's place in batch.logit_rows.
void Transformer::Compute(const StepBatch& batch, std::span<float> recalls,
                          const std::function<void(int first, const Tensor& logits)>& take) {
  backend_.BeginStep(batch);
  if (layer_observer_ || !batch.recall_probes.empty()) {  // these touch host memory
    ComputeLayers(batch, recalls);
  } else {
    backend_.Replay(batch, &recordings_, [&] { ComputeLayers(batch, recalls); });
  }
  const auto wanted = static_cast<int>(batch.logit_rows.size());
  for (int first = 0; first < wanted; first += kLogitRows) {
    const int round = std::min(kLogitRows, wanted - first);
    const Tensor last = Rows(logit_input_, round);
    // The normed activations of the layers are not needed any more; a round has no more rows.
    const Tensor normed = Rows(normed_, round);
    const Tensor logits = Rows(logits_, round);
    backend_.GatherLogitRows(batch, first, residual_, last);
    backend_.RmsNorm(last, Floats(output_norm_), config_.norm_epsilon, normed);
    backend_.MatMul(normed, *output_, nullptr, /*accumulate=*/false, logits);
    take(first, logits);
  }
}

// Leaves the residual stream after the last layer.
void Transformer::ComputeLayers(const StepBatch& batch, std::span<float> recalls) {
  const int rows = batch.rows();
  const Tensor x = Rows(residual_, rows);
  const Tensor normed = Rows(normed_, rows);
  const Tensor qkv = Rows(qkv_, rows);
  const Tensor attended = Rows(attended_, rows);
  const Tensor gate_up = Rows(gate_up_, rows);
  const Tensor ffn = Rows(ffn_, rows);
  const float epsilon = config_.norm_epsilon;

  const Rope rope{config_.rope_pairing, config_.rope_dim, Floats(rope_frequencies_)};

  size_t probe = 0;
  backend_.Embed(batch, *embedding_, x);
  for (int l = 0; l < config_.layers; ++l) {
    const Layer& layer = layers_[l];
    backend_.RmsNorm(x, Floats(layer.attention_norm), epsilon, normed);
    backend_.MatMul(normed, *layer.qkv, Floats(layer.qkv_bias), /*accumulate=*/false, qkv);
    const KvView& kv = pools_.Layer(l);
    backend_.RopeAndStoreKv(batch, qkv, config_.heads, kv, rope, selectors_[l].basis);
    if (layer_observer_) layer_observer_(l, qkv, x);
    backend_.Attention(batch, qkv, config_.heads, kv, selectors_[l], attended);
    const size_t first_probe = probe;
    while (probe < batch.recall_probes.size() && batch.recall_probes[probe].layer == l) ++probe;
    if (probe > first_probe) {
      backend_.MeasureRecall(batch, qkv, config_.heads, kv,
                             batch.recall_probes.subspan(first_probe, probe - first_probe),
                             &recalls[first_probe]);
    }
    backend_.MatMul(attended, *layer.attention_out, nullptr, /*accumulate=*/true, x);

    backend_.RmsNorm(x, Floats(layer.ffn_norm), epsilon, normed);
    backend_.MatMul(normed, *layer.gate_up, nullptr, /*accumulate=*/false, gate_up);
    backend_.SwiGlu(gate_up, ffn);
    backend_.MatMul(ffn, *layer.down, nullptr, /*accumulate=*/true, x);
  }
}

absl::Status Transformer::CopyBlock(int32_t from, int32_t to, int tokens) {
  return pools_.Copy({from, to, tokens});
}

KvTraffic Transformer::Traffic(const Selection& selection, int context) const {
  const bool labels = selection.kind == SelectionKind::kLabels;
  const bool scores = selection.kind == SelectionKind::kScores;
  KvTraffic traffic;
  for (int l = 0; l < config_.layers; ++l) {
    const KvView& kv = pools_.Layer(l);
    const int64_t token_bytes = kv.token_elements() * static_cast<int64_t>(sizeof(uint16_t));
    for (int g = 0; g < config_.kv_heads; ++g) {
      const int64_t budget = BudgetTokens(selection, selectors_[l], g, context);
      traffic.attended_tokens += budget;
      traffic.equivalent_bytes += context * token_bytes;
      if (budget == context) {
        traffic.dense_bytes += context * token_bytes;
      } else {
        traffic.row_bytes += budget * token_bytes;
        if (labels) traffic.label_bytes += int64_t{context} * kv.label_width / 2;
        if (scores) traffic.dense_bytes += context * token_bytes / 2;  // all keys
      }
    }
  }
  traffic.heads = int64_t{config_.layers} * config_.kv_heads;
  traffic.context_tokens = traffic.heads * context;
  return traffic;
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

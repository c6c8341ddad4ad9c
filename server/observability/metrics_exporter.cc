#include "server/observability/metrics_exporter.h"

#include <exception>

#include "absl/strings/str_cat.h"
#include "engine/request/refusal.h"
#include "prometheus/text_serializer.h"
#include "server/base/version.h"

namespace winnow {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;
using Labels = prometheus::Labels;

// Seconds. From one fast token to a long answer on a slow machine.
const Buckets kRequestBuckets = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,  2.5,
                                 5,    10,    30,   60,  120,  300, 600};
const Buckets kQueueBuckets = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                               0.5,   1,      2.5,   5,    10,    30,   60,  120};
const Buckets kTtftBuckets = {0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5,
                              0.75,  1,    2.5,   5,    10,    20,  40,   80};
const Buckets kItlBuckets = {0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05,
                             0.075, 0.1,    0.15,  0.2,    0.3,  0.5,   1,    2.5};
const Buckets kStepBuckets = {0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.005, 0.01, 0.02,
                              0.03,    0.05,    0.1,    0.2,    0.3,   0.5,   1,     3};
// Shares of the softmax mass.
const Buckets kEstimatedMassBuckets = {0.005, 0.01, 0.02, 0.05, 0.1, 0.15,
                                       0.2,   0.3,  0.4,  0.5,  0.75};
const Buckets kRecallBuckets = {0.1, 0.2,  0.3, 0.4,  0.5,  0.6,  0.7,
                                0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1};

prometheus::Family<prometheus::Counter>& Counters(prometheus::Registry& registry, const char* name,
                                                  const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}

prometheus::Family<prometheus::Gauge>& Gauges(prometheus::Registry& registry, const char* name,
                                              const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}

prometheus::Family<prometheus::Histogram>& Histograms(prometheus::Registry& registry,
                                                      const char* name, const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
}

}  // namespace

MetricsExporter::MetricsExporter(const std::string& model, const std::string& architecture,
                                 const BlockBytes& block_bytes)
    : block_bytes_(block_bytes), registry_(std::make_shared<prometheus::Registry>()) {
  prometheus::Registry& r = *registry_;
  Gauges(r, "winnow_build_info", "Always 1; the labels say what is running.")
      .Add({{"version", kVersion}, {"model", model}, {"architecture", architecture}})
      .Set(1);

  request_seconds_ = &Histograms(r, "winnow_request_duration_seconds",
                                 "Time from a request's submission to its end.")
                          .Add({}, kRequestBuckets);
  queue_seconds_ = &Histograms(r, "winnow_request_queue_seconds",
                               "Time from a request's submission to the first step computing it.")
                        .Add({}, kQueueBuckets);
  ttft_seconds_ = &Histograms(r, "winnow_time_to_first_token_seconds",
                              "Time from a request's submission to its first generated token.")
                       .Add({}, kTtftBuckets);
  itl_seconds_ = &Histograms(r, "winnow_inter_token_latency_seconds",
                             "Time between two generated tokens of one continuation.")
                      .Add({}, kItlBuckets);

  running_requests_ =
      &Gauges(r, "winnow_requests_running", "Requests that have been started and are not over.")
           .Add({});
  waiting_requests_ =
      &Gauges(r, "winnow_requests_waiting", "Requests that have not been started.").Add({});
  waiting_prompt_tokens_ =
      &Gauges(r, "winnow_waiting_prompt_tokens", "Prompt tokens of requests that wait.").Add({});
  estimated_wait_seconds_ =
      &Gauges(r, "winnow_estimated_wait_seconds",
              "Time until the last request that waits has its turn, estimated.")
           .Add({});
  auto& blocks = Gauges(r, "winnow_kv_blocks", "KV blocks of the pool by state.");
  kv_blocks_used_ = &blocks.Add({{"state", "used"}});
  kv_blocks_free_ = &blocks.Add({{"state", "free"}});
  auto& host_blocks =
      Gauges(r, "winnow_kv_host_blocks", "KV blocks that the host tier has room for, by state.");
  host_blocks_used_ = &host_blocks.Add({{"state", "used"}});
  host_blocks_free_ = &host_blocks.Add({{"state", "free"}});
  auto& host_moves = Counters(r, "winnow_kv_host_moves_total",
                              "KV blocks that were spilled to the host tier, fetched from it, and "
                              "dropped from it for others.");
  host_spilled_ = &host_moves.Add({{"kind", "spilled"}});
  host_fetched_ = &host_moves.Add({{"kind", "fetched"}});
  host_dropped_ = &host_moves.Add({{"kind", "dropped"}});
  auto& host_bytes = Counters(r, "winnow_kv_host_bytes_total",
                              "Bytes that were spilled to the host tier and fetched from it.");
  host_spilled_bytes_ = &host_bytes.Add({{"kind", "spilled"}});
  host_fetched_bytes_ = &host_bytes.Add({{"kind", "fetched"}});

  auto& tokens = Counters(r, "winnow_tokens_total",
                          "Tokens of finished requests. Cached ones are counted as prompt too.");
  prompt_tokens_ = &tokens.Add({{"kind", "prompt"}});
  cached_tokens_ = &tokens.Add({{"kind", "cached"}});
  generated_tokens_ = &tokens.Add({{"kind", "generated"}});
  auto& computed = Counters(r, "winnow_computed_tokens_total",
                            "Tokens that steps computed, including recomputation, as they go.");
  computed_prefill_tokens_ = &computed.Add({{"kind", "prefill"}});
  computed_decode_tokens_ = &computed.Add({{"kind", "decode"}});
  preemptions_ = &Counters(r, "winnow_preemptions_total",
                           "Sequences that lost their KV blocks to others and were recomputed.")
                      .Add({});
  auto& read =
      Counters(r, "winnow_kv_read_bytes_total",
               "Bytes that attention read: keys and values of whole contexts (dense) or of "
               "selected tokens (rows), labels, and summaries of the other tokens.");
  kv_read_dense_bytes_ = &read.Add({{"kind", "dense"}});
  kv_read_row_bytes_ = &read.Add({{"kind", "rows"}});
  kv_read_label_bytes_ = &read.Add({{"kind", "labels"}});
  kv_read_summary_bytes_ = &read.Add({{"kind", "summaries"}});
  kv_dense_equivalent_bytes_ = &Counters(r, "winnow_kv_dense_equivalent_bytes_total",
                                         "Bytes that attention would have read had it been dense.")
                                    .Add({});
  auto& attention_tokens =
      Counters(r, "winnow_attention_tokens_total",
               "Tokens that generated tokens chose from (considered) and attended to (selected), "
               "summed over layers and KV heads.");
  selected_tokens_ = &attention_tokens.Add({{"kind", "selected"}});
  considered_tokens_ = &attention_tokens.Add({{"kind", "considered"}});
  attention_recall_ =
      &Histograms(r, "winnow_attention_recall",
                  "Share of the true softmax mass that selected tokens held, sampled.")
           .Add({}, kRecallBuckets);
  attention_estimated_mass_ =
      &Histograms(r, "winnow_attention_estimated_mass",
                  "Share of attention that the estimate of the tokens that were not selected had, "
                  "sampled.")
           .Add({}, kEstimatedMassBuckets);
  budget_fallbacks_ = &Counters(r, "winnow_budget_fallbacks_total",
                                "Budgets that were doubled because recall fell below the floor.")
                           .Add({});
  label_cache_bytes_ =
      &Gauges(r, "winnow_label_cache_bytes", "Memory for labels beside the KV blocks in use.")
           .Add({});

  auto& steps = Histograms(r, "winnow_step_duration_seconds",
                           "Duration of the phases of an engine step, by what the step computed.");
  const char* const kinds[kStepKinds] = {"prefill", "decode", "mixed"};
  for (int kind = 0; kind < kStepKinds; ++kind) {
    const auto phase = [&](const char* name) {
      return &steps.Add({{"phase", name}, {"kind", kinds[kind]}}, kStepBuckets);
    };
    step_seconds_[kind] = {phase("schedule"), phase("forward"), phase("sample")};
  }

  calls_ = &Counters(r, "winnow_rpcs_total", "Calls that ended, by method and gRPC status code.");
  for (const char* method : {"Generate", "Complete", "Tokenize", "Detokenize", "GetModel"}) {
    calls_->Add({{"method", method}, {"code", "OK"}});
  }
  refused_connections_ =
      &Counters(r, "winnow_connections_refused_total",
                "Connections that were closed at once, and tries to take one that failed, for lack "
                "of file descriptors.")
           .Add({});
  rejected_ = &Counters(r, "winnow_requests_rejected_total",
                        "Valid requests that the engine refused, by gRPC status code.");
  rejected_->Add({{"code", "RESOURCE_EXHAUSTED"}});
  rejected_->Add({{"code", "UNAVAILABLE"}});
  shed_ = &Counters(r, "winnow_requests_shed_total",
                    "Requests that were refused or dropped for lack of capacity, by reason.");
  for (const ShedReason reason : kShedReasons) {
    shed_->Add({{"reason", std::string(ShedReasonName(reason))}});
  }
  auto& finished = Counters(r, "winnow_continuations_total", "Continuations by how they ended.");
  finished_stop_ = &finished.Add({{"finish_reason", "stop"}});
  finished_length_ = &finished.Add({{"finish_reason", "length"}});
  finished_cancelled_ = &finished.Add({{"finish_reason", "cancelled"}});
}

void MetricsExporter::ExportInferenceExtensionNames() {
  const auto gauge = [&](const char* name, const char* help) {
    return &Gauges(*registry_, name, help).Add({});
  };
  inference_extension_ = {
      .running_requests = gauge("vllm:num_requests_running", "As winnow_requests_running."),
      .waiting_requests = gauge("vllm:num_requests_waiting", "As winnow_requests_waiting."),
      .kv_usage = gauge("vllm:kv_cache_usage_perc", "Share of the KV blocks in use, from 0 to 1.")};
}

absl::StatusOr<int> MetricsExporter::Listen(const std::string& address) {
  try {
    exposer_ = std::make_unique<prometheus::Exposer>(address);
    exposer_->RegisterCollectable(registry_);
    return exposer_->GetListeningPorts().at(0);
  } catch (const std::exception& error) {  // the library's way to say that the port is taken
    return absl::UnavailableError(
        absl::StrCat("can't serve metrics on ", address, ": ", error.what()));
  }
}

void MetricsExporter::OnStep(const StepStats& stats) {
  const StepKind kind = stats.decode_tokens == 0    ? kPrefill
                        : stats.prefill_tokens == 0 ? kDecode
                                                    : kMixed;
  step_seconds_[kind].schedule->Observe(stats.schedule_seconds);
  step_seconds_[kind].forward->Observe(stats.forward_seconds);
  step_seconds_[kind].sample->Observe(stats.sample_seconds);
  computed_prefill_tokens_->Increment(stats.prefill_tokens);
  computed_decode_tokens_->Increment(stats.decode_tokens);
  const auto add = [](prometheus::Counter* counter, int64_t amount) {
    counter->Increment(static_cast<double>(amount));
  };
  add(kv_read_dense_bytes_, stats.traffic.dense_bytes);
  add(kv_read_row_bytes_, stats.traffic.row_bytes);
  add(kv_read_label_bytes_, stats.traffic.label_bytes);
  add(kv_read_summary_bytes_, stats.traffic.summary_bytes);
  add(kv_dense_equivalent_bytes_, stats.traffic.equivalent_bytes);
  add(selected_tokens_, stats.traffic.attended_tokens);
  add(considered_tokens_, stats.traffic.context_tokens);
  add(budget_fallbacks_, stats.fallbacks);
  for (const ProbedMass& mass : stats.probed) {
    attention_recall_->Observe(mass.recall);
    attention_estimated_mass_->Observe(mass.estimated);
  }
}

void MetricsExporter::OnGauges(const EngineGauges& gauges) {
  running_requests_->Set(gauges.running_requests);
  waiting_requests_->Set(gauges.waiting_requests);
  waiting_prompt_tokens_->Set(gauges.waiting_prompt_tokens);
  estimated_wait_seconds_->Set(gauges.estimated_wait_seconds);
  kv_blocks_used_->Set(gauges.kv_blocks_used);
  kv_blocks_free_->Set(gauges.kv_blocks_total - gauges.kv_blocks_used);
  host_blocks_used_->Set(gauges.host_slots_used);
  host_blocks_free_->Set(gauges.host_slots_total - gauges.host_slots_used);
  const auto raise_to = [](prometheus::Counter* counter, int64_t total) {
    counter->Increment(static_cast<double>(total) - counter->Value());
  };
  raise_to(host_spilled_, gauges.host_traffic.spilled);
  raise_to(host_fetched_, gauges.host_traffic.fetched);
  raise_to(host_dropped_, gauges.host_traffic.dropped);
  raise_to(host_spilled_bytes_, gauges.host_traffic.spilled * block_bytes_.all);
  raise_to(host_fetched_bytes_, gauges.host_traffic.fetched * block_bytes_.all);
  label_cache_bytes_->Set(static_cast<double>(gauges.kv_blocks_used * block_bytes_.labels));
  if (inference_extension_) {
    inference_extension_->running_requests->Set(gauges.running_requests);
    inference_extension_->waiting_requests->Set(gauges.waiting_requests);
    inference_extension_->kv_usage->Set(static_cast<double>(gauges.kv_blocks_used) /
                                        gauges.kv_blocks_total);
  }
}

void MetricsExporter::OnFinished(const RequestSummary& summary) {
  CountShed(summary.status);
  request_seconds_->Observe(summary.total_seconds);
  prompt_tokens_->Increment(summary.prompt_tokens);
  cached_tokens_->Increment(summary.cached_tokens);
  generated_tokens_->Increment(summary.generated_tokens);
  if (summary.generated_tokens == 0) return;  // ended before it had anything to time
  queue_seconds_->Observe(summary.queue_seconds);
  ttft_seconds_->Observe(summary.ttft_seconds);
  for (const double seconds : summary.itl_seconds) itl_seconds_->Observe(seconds);
}

void MetricsExporter::OnPreempted() { preemptions_->Increment(); }

void MetricsExporter::OnRejected(const absl::Status& status) {
  rejected_->Add({{"code", absl::StatusCodeToString(status.code())}}).Increment();
  CountShed(status);
}

void MetricsExporter::CountShed(const absl::Status& status) {
  const std::optional<RefusalDetails> refusal = DetailsOf(status);
  if (!refusal.has_value()) return;
  shed_->Add({{"reason", std::string(ShedReasonName(refusal->reason))}}).Increment();
}

void MetricsExporter::OnCall(std::string_view method, std::string_view code) {
  calls_->Add({{"method", std::string(method)}, {"code", std::string(code)}}).Increment();
}

void MetricsExporter::OnConnectionRefused() { refused_connections_->Increment(); }

void MetricsExporter::OnContinuation(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return finished_stop_->Increment();
    case FinishReason::kLength:
      return finished_length_->Increment();
    case FinishReason::kCancelled:
      return finished_cancelled_->Increment();
  }
}

std::string MetricsExporter::Text() const {
  return prometheus::TextSerializer().Serialize(registry_->Collect());
}

}  // namespace winnow

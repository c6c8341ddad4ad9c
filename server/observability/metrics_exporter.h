#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/observer.h"
#include "prometheus/counter.h"
#include "prometheus/exposer.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace winnow {

/// Turns what happens in the engine and in the gRPC services into Prometheus metrics.
/// docs/metrics.md describes each of them. All methods may be called from any thread.
class MetricsExporter final : public EngineObserver {
 public:
  /// Bytes of a KV block of one group of layers.
  struct BlockBytes {
    int64_t labels = 0;  ///< 0 without labels
    int64_t all = 0;     ///< keys, values and labels
  };

  /// `model` and `architecture` label the info metric.
  MetricsExporter(const std::string& model, const std::string& architecture,
                  const BlockBytes& block_bytes);

  /// Also exports the gauges that the Gateway API Inference Extension's endpoint picker reads,
  /// under the names that it expects: vLLM's. REQUIRES: called before anything else.
  void ExportInferenceExtensionNames();

  /// Serves http://<address>/metrics until this object is destroyed and returns the port, which is
  /// chosen freely when `address` ("HOST:PORT") has port 0. UNAVAILABLE when it can't listen there.
  absl::StatusOr<int> Listen(const std::string& address);

  void OnStep(const StepStats& stats) override;
  void OnGauges(const EngineGauges& gauges) override;
  void OnFinished(const RequestSummary& summary) override;
  void OnPreempted() override;
  void OnRejected(const absl::Status& status) override;

  /// A call to a service has ended with `code` ("OK", "INVALID_ARGUMENT", ...).
  void OnCall(std::string_view method, std::string_view code);
  /// A connection was refused, or could not be taken yet, for lack of descriptors.
  void OnConnectionRefused();
  /// A continuation has ended.
  void OnContinuation(FinishReason reason);

  /// What a scrape returns, without HTTP, in Prometheus' text format.
  std::string Text() const;

 private:
  /// A step's kind: what it computed.
  enum StepKind { kPrefill, kDecode, kMixed, kStepKinds };
  struct StepHistograms {
    prometheus::Histogram* schedule;
    prometheus::Histogram* forward;
    prometheus::Histogram* sample;
  };

  /// Counts a status that is a Refusal.
  void CountShed(const absl::Status& status);

  /// Copies of gauges under vLLM's names.
  struct InferenceExtensionGauges {
    prometheus::Gauge* running_requests;
    prometheus::Gauge* waiting_requests;
    prometheus::Gauge* kv_usage;  ///< 0 to 1
  };

  const BlockBytes block_bytes_;
  std::shared_ptr<prometheus::Registry> registry_;

  prometheus::Histogram* request_seconds_;
  prometheus::Histogram* queue_seconds_;
  prometheus::Histogram* ttft_seconds_;
  prometheus::Histogram* itl_seconds_;
  prometheus::Gauge* running_requests_;
  prometheus::Gauge* waiting_requests_;
  prometheus::Gauge* waiting_prompt_tokens_;
  prometheus::Gauge* estimated_wait_seconds_;
  prometheus::Gauge* kv_blocks_used_;
  prometheus::Gauge* kv_blocks_free_;
  prometheus::Gauge* host_blocks_used_;
  prometheus::Gauge* host_blocks_free_;
  prometheus::Counter* host_spilled_;
  prometheus::Counter* host_fetched_;
  prometheus::Counter* host_dropped_;
  prometheus::Counter* host_spilled_bytes_;
  prometheus::Counter* host_fetched_bytes_;
  prometheus::Counter* prompt_tokens_;
  prometheus::Counter* cached_tokens_;
  prometheus::Counter* generated_tokens_;
  prometheus::Counter* computed_prefill_tokens_;
  prometheus::Counter* computed_decode_tokens_;
  prometheus::Counter* preemptions_;
  prometheus::Counter* kv_read_dense_bytes_;
  prometheus::Counter* kv_read_row_bytes_;
  prometheus::Counter* kv_read_label_bytes_;
  prometheus::Counter* kv_read_summary_bytes_;
  prometheus::Counter* kv_dense_equivalent_bytes_;
  prometheus::Counter* selected_tokens_;
  prometheus::Counter* considered_tokens_;
  prometheus::Counter* budget_fallbacks_;
  prometheus::Histogram* attention_recall_;
  prometheus::Histogram* attention_estimated_mass_;
  prometheus::Gauge* label_cache_bytes_;
  std::optional<InferenceExtensionGauges> inference_extension_;
  StepHistograms step_seconds_[kStepKinds];
  prometheus::Family<prometheus::Counter>* rejected_;
  prometheus::Family<prometheus::Counter>* shed_;
  prometheus::Family<prometheus::Counter>* calls_;
  prometheus::Counter* refused_connections_;
  prometheus::Counter* finished_stop_;
  prometheus::Counter* finished_length_;
  prometheus::Counter* finished_cancelled_;

  std::unique_ptr<prometheus::Exposer> exposer_;  ///< last, so that scrapes end first
};

}  // namespace winnow

#include "server/observability/metrics_exporter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "engine/request/refusal.h"

namespace winnow {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(MetricsExporter, CountsWhatARequestUsed) {
  MetricsExporter metrics("m", "llama", {.labels = 100, .all = 3000});
  RequestSummary summary;
  summary.prompt_tokens = 10;
  summary.cached_tokens = 4;
  summary.generated_tokens = 3;
  summary.queue_seconds = 0.002;
  summary.ttft_seconds = 0.02;
  summary.total_seconds = 0.2;
  summary.itl_seconds = {0.01, 0.02};
  metrics.OnFinished(summary);
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("winnow_tokens_total{kind=\"prompt\"} 10\n"));
  EXPECT_THAT(text, HasSubstr("winnow_tokens_total{kind=\"cached\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("winnow_tokens_total{kind=\"generated\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("winnow_request_duration_seconds_sum 0.2\n"));
  EXPECT_THAT(text, HasSubstr("winnow_request_queue_seconds_sum 0.002\n"));
  EXPECT_THAT(text, HasSubstr("winnow_time_to_first_token_seconds_sum 0.02\n"));
  EXPECT_THAT(text, HasSubstr("winnow_inter_token_latency_seconds_count 2\n"));
}

TEST(MetricsExporter, LeavesRequestsWithoutATokenOutOfTokenLatencies) {
  MetricsExporter metrics("m", "llama", {.labels = 100, .all = 3000});
  RequestSummary summary;
  summary.status = absl::CancelledError("");
  metrics.OnFinished(summary);
  EXPECT_THAT(metrics.Text(), HasSubstr("winnow_request_duration_seconds_count 1\n"));
  EXPECT_THAT(metrics.Text(), HasSubstr("winnow_time_to_first_token_seconds_count 0\n"));
}

TEST(MetricsExporter, TellsStepsApartByWhatTheyComputed) {
  MetricsExporter metrics("m", "llama", {.labels = 100, .all = 3000});
  StepStats step;
  step.prefill_tokens = 5;
  step.forward_seconds = 1;
  metrics.OnStep(step);
  step.decode_tokens = 2;
  step.traffic = {.dense_bytes = 1000,
                  .row_bytes = 300,
                  .label_bytes = 20,
                  .summary_bytes = 6,
                  .equivalent_bytes = 7000,
                  .attended_tokens = 30,
                  .context_tokens = 500,
                  .heads = 2};
  step.probed = {{.recall = 0.97f, .estimated = 0.02f}};
  step.fallbacks = 1;
  metrics.OnStep(step);
  step.prefill_tokens = 0;
  metrics.OnStep(step);
  const std::string text = metrics.Text();
  for (const char* kind : {"prefill", "mixed", "decode"}) {
    EXPECT_THAT(text, HasSubstr("winnow_step_duration_seconds_count{kind=\"" + std::string(kind) +
                                "\",phase=\"forward\"} 1\n"));
  }
  EXPECT_THAT(text, HasSubstr("winnow_computed_tokens_total{kind=\"prefill\"} 10\n"));
  EXPECT_THAT(text, HasSubstr("winnow_computed_tokens_total{kind=\"decode\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("winnow_kv_read_bytes_total{kind=\"dense\"} 2000\n"));
  EXPECT_THAT(text, HasSubstr("winnow_kv_read_bytes_total{kind=\"rows\"} 600\n"));
  EXPECT_THAT(text, HasSubstr("winnow_kv_read_bytes_total{kind=\"labels\"} 40\n"));
  EXPECT_THAT(text, HasSubstr("winnow_kv_read_bytes_total{kind=\"summaries\"} 12\n"));
  EXPECT_THAT(text, HasSubstr("winnow_kv_dense_equivalent_bytes_total 14000\n"));
  EXPECT_THAT(text, HasSubstr("winnow_attention_tokens_total{kind=\"selected\"} 60\n"));
  EXPECT_THAT(text, HasSubstr("winnow_attention_tokens_total{kind=\"considered\"} 1000\n"));
  EXPECT_THAT(text, HasSubstr("winnow_attention_recall_bucket{le=\"0.95\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("winnow_attention_estimated_mass_bucket{le=\"0.01\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("winnow_attention_estimated_mass_bucket{le=\"0.05\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("winnow_attention_recall_bucket{le=\"0.98\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("winnow_budget_fallbacks_total 2\n"));
}

TEST(MetricsExporter, ShowsGaugesCallsAndEndings) {
  MetricsExporter metrics("m", "llama", {.labels = 100, .all = 3000});
  metrics.OnGauges({.running_requests = 2,
                    .waiting_requests = 3,
                    .waiting_prompt_tokens = 70,
                    .estimated_wait_seconds = 1.5,
                    .kv_blocks_used = 10,
                    .kv_blocks_total = 16,
                    .host_slots_used = 5,
                    .host_slots_total = 7,
                    .host_traffic = {.spilled = 6, .fetched = 4, .dropped = 1}});
  metrics.OnPreempted();
  metrics.OnRejected(Refusal(ShedReason::kDeadline, "late", absl::Seconds(1)));
  RequestSummary dropped;
  dropped.status = Refusal(ShedReason::kOverdue, "later", absl::Seconds(1));
  metrics.OnFinished(dropped);
  metrics.OnCall("Generate", "OK");
  metrics.OnCall("Generate", "OK");
  metrics.OnContinuation(FinishReason::kLength);
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("winnow_requests_running 2\n"));
  EXPECT_THAT(text, HasSubstr("winnow_requests_waiting 3\n"));
  EXPECT_THAT(text, HasSubstr("winnow_waiting_prompt_tokens 70\n"));
  EXPECT_THAT(text, HasSubstr("winnow_estimated_wait_seconds 1.5\n"));
  EXPECT_THAT(text, HasSubstr("winnow_requests_shed_total{reason=\"deadline\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("winnow_requests_shed_total{reason=\"overdue\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("winnow_requests_shed_total{reason=\"queue_tokens\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("winnow_kv_blocks{state=\"used\"} 10\n"));
  EXPECT_THAT(text, HasSubstr("winnow_kv_blocks{state=\"free\"} 6\n"));
  EXPECT_THAT(text, HasSubstr("winnow_preemptions_total 1\n"));
  EXPECT_THAT(text, HasSubstr("winnow_kv_host_blocks{state=\"used\"} 5\n"));
  EXPECT_THAT(text, HasSubstr("winnow_kv_host_blocks{state=\"free\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("winnow_kv_host_moves_total{kind=\"spilled\"} 6\n"));
  EXPECT_THAT(text, HasSubstr("winnow_kv_host_moves_total{kind=\"fetched\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("winnow_kv_host_moves_total{kind=\"dropped\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("winnow_kv_host_bytes_total{kind=\"spilled\"} 18000\n"));
  EXPECT_THAT(text, HasSubstr("winnow_kv_host_bytes_total{kind=\"fetched\"} 12000\n"));
  EXPECT_THAT(text, HasSubstr("winnow_requests_rejected_total{code=\"RESOURCE_EXHAUSTED\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("winnow_rpcs_total{code=\"OK\",method=\"Generate\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("winnow_continuations_total{finish_reason=\"length\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("architecture=\"llama\",model=\"m\""));
}

TEST(MetricsExporter, UsesTheInferenceExtensionsNamesOnlyWhenAsked) {
  const EngineGauges gauges = {
      .running_requests = 3, .waiting_requests = 2, .kv_blocks_used = 4, .kv_blocks_total = 16};
  MetricsExporter metrics("m", "llama", {});
  metrics.OnGauges(gauges);
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("vllm:")));
  MetricsExporter asked("m", "llama", {});
  asked.ExportInferenceExtensionNames();
  asked.OnGauges(gauges);
  EXPECT_THAT(asked.Text(), HasSubstr("vllm:num_requests_running 3\n"));
  EXPECT_THAT(asked.Text(), HasSubstr("vllm:num_requests_waiting 2\n"));
  EXPECT_THAT(asked.Text(), HasSubstr("vllm:kv_cache_usage_perc 0.25\n"));
}

// The working directory of tests is the source tree.
TEST(MetricsExporter, ExportsExactlyTheMetricsThatTheDocumentationLists) {
  std::set<std::string> exported;
  std::istringstream text(MetricsExporter("m", "llama", {.labels = 100, .all = 3000}).Text());
  for (std::string line; std::getline(text, line);) {
    std::smatch match;
    if (std::regex_search(line, match, std::regex("^# TYPE (\\S+)"))) exported.insert(match[1]);
  }
  std::set<std::string> documented;
  std::ifstream page("docs/metrics.md");
  ASSERT_TRUE(page);
  for (std::string line; std::getline(page, line);) {
    std::smatch match;
    if (std::regex_search(line, match, std::regex("^\\| `(winnow_\\w+)`"))) {
      documented.insert(match[1]);
    }
  }
  EXPECT_EQ(exported, documented);
}

TEST(MetricsExporter, SaysWhereItCanNotListen) {
  MetricsExporter first("m", "llama", {});
  const absl::StatusOr<int> port = first.Listen("127.0.0.1:0");
  ASSERT_EQ(port.status(), absl::OkStatus());
  EXPECT_GT(*port, 0);
  MetricsExporter second("m", "llama", {});
  const absl::StatusOr<int> taken = second.Listen("127.0.0.1:" + std::to_string(*port));
  EXPECT_EQ(taken.status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace winnow

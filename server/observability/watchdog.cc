#include "server/observability/watchdog.h"

#include "absl/strings/str_cat.h"

namespace winnow {
namespace {

std::string State(const Engine::Activity& activity) {
  const EngineGauges& gauges = activity.gauges;
  return absl::StrCat("step of ", activity.step.prefill, " prompt and ", activity.step.decode,
                      " generated tokens; ", gauges.running_requests, " requests running, ",
                      gauges.waiting_requests, " waiting; ", gauges.kv_blocks_used, " of ",
                      gauges.kv_blocks_total, " KV blocks in use");
}

}  // namespace

absl::Status CheckEngine(const Engine& engine, absl::Duration step_timeout, absl::Time now) {
  const Engine::Activity activity = engine.activity();
  if (!engine.healthy()) {
    return absl::UnavailableError(absl::StrCat("the device has failed: ", State(activity)));
  }
  const absl::Duration running =
      activity.in_step ? now - activity.step_begin : absl::ZeroDuration();
  if (running <= step_timeout) return absl::OkStatus();
  return absl::DeadlineExceededError(absl::StrCat(
      "a step has been running for ", absl::ToDoubleSeconds(running), " s: ", State(activity)));
}

}  // namespace winnow

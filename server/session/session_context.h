#pragma once

#include <atomic>
#include <cstdint>

#include "engine/engine.h"
#include "server/observability/metrics_exporter.h"
#include "server/security/auth.h"
#include "server/session/delivery_thread.h"
#include "server/session/served_model.h"
#include "server/session/slow_readers.h"
#include "server/session/text_pool.h"

namespace winnow {

/// What all calls share, whatever front they came through. Outlives the fronts; what it refers to
/// outlives it.
struct SessionContext {
  const ServedModel& model;
  Engine& engine;
  MetricsExporter& metrics;
  const Authenticator& authenticator;
  SlowReaders slow_readers{};
  std::atomic<uint64_t> last_request_id{0};
  std::atomic<int> open_calls{0};  ///< generation calls whose responses are not out yet
  DeliveryThread delivery{};       ///< writes what the engine has put into streams
  TextPool texts{};                ///< tokenizes
};

}  // namespace winnow

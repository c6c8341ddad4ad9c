#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "server/metrics_exporter.h"
#include "server/served_model.h"

namespace winnow {

/// The listening gRPC server: Winnow's services, health checks and reflection.
///
/// Serves from Start until Shutdown or destruction. Health is NOT_SERVING until SetServing(true).
class GrpcServer {
 public:
  /// Listens on `address` ("HOST:PORT"; port 0 takes a free one). UNAVAILABLE when that fails.
  /// REQUIRES: `model`, `engine` and `metrics` outlive the server.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const std::string& address,
                                                           const ServedModel& model, Engine& engine,
                                                           MetricsExporter& metrics);
  ~GrpcServer();

  int port() const;

  /// What health checks answer, for the whole server and for each service.
  void SetServing(bool serving);

  /// Stops listening and waits for running calls, which are cancelled after `limit`.
  void Shutdown(absl::Duration limit);

 private:
  struct State;
  explicit GrpcServer(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace winnow

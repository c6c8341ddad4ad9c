#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/security/server_credentials.h"
#include "server/net/address.h"
#include "server/session/session_context.h"

namespace winnow {

/// How the server listens.
struct GrpcServerOptions {
  Address address;
  std::shared_ptr<grpc::ServerCredentials> credentials = grpc::InsecureServerCredentials();
  bool reflection = true;           ///< let clients list and describe the services
  int max_message_bytes = 4 << 20;  ///< of one request
  int max_streams_per_connection = 1024;
  /// Clients that ping more often without need are sent away.
  absl::Duration min_ping_interval = absl::Seconds(5);
  /// Clients connect anew after this, so that they meet new servers; running calls finish.
  absl::Duration max_connection_age = absl::InfiniteDuration();
  bool reuse_port = false;  ///< other servers may listen on the same port
};

/// The listening gRPC server: Winnow's services, health checks and reflection.
///
/// Serves from Start until Shutdown or destruction. Health is NOT_SERVING until SetServing(true).
class GrpcServer {
 public:
  /// Listens. UNAVAILABLE when the address can't be had. REQUIRES: `context` outlives the server.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const GrpcServerOptions& options,
                                                           SessionContext& context);
  ~GrpcServer();

  /// With the port that was really taken.
  const Address& address() const;

  /// Takes no further connections, while those that it has go on: where several servers listen, the
  /// others get them.
  void StopAccepting();

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

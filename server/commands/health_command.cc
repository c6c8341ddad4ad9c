#include <chrono>
#include <cstdio>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "server/commands/client_options.h"
#include "server/commands/commands.h"
#include "server/commands/flags.h"

namespace winnow {

int RunHealth(std::span<const std::string> arguments) {
  using grpc::health::v1::HealthCheckResponse;
  ClientOptions client;
  std::string service;
  double timeout_seconds = 2;
  FlagSet flags("winnow health", "Asks a server whether it serves; exits with 0 if so, else 1.");
  DeclareClientFlags(flags, client);
  flags.Add("service", &service, "NAME",
            "Ask for one service, such as winnow.v1.GenerationService, instead of the server.");
  flags.Add("timeout", &timeout_seconds, "SECONDS", "How long to wait for the answer.", {0, 3600});
  if (std::optional<int> exit_code = ParseOrExitCode(flags, arguments)) return *exit_code;

  const absl::StatusOr<Connection> connection = Connection::Open(client);
  if (!connection.ok()) return Fail(flags, connection.status());
  const auto stub = grpc::health::v1::Health::NewStub(connection->channel());
  grpc::ClientContext call;
  connection->Authorize(call);
  call.set_deadline(std::chrono::system_clock::now() +
                    std::chrono::milliseconds(static_cast<int64_t>(timeout_seconds * 1000)));
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  HealthCheckResponse response;
  if (const grpc::Status status = stub->Check(&call, request, &response); !status.ok()) {
    return Fail(flags, CallError(client, status));
  }
  std::puts(HealthCheckResponse::ServingStatus_Name(response.status()).c_str());
  return response.status() == HealthCheckResponse::SERVING ? 0 : 1;
}

}  // namespace winnow

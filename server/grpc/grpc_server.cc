#include "server/grpc/grpc_server.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "grpc/grpc.h"
#include "grpc/support/log.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/impl/server_builder_option.h"
#include "grpcpp/impl/server_builder_plugin.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "server/grpc/generation_service.h"
#include "server/grpc/message.h"
#include "server/grpc/model_service.h"
#include "server/grpc/reflection_guard.h"
#include "server/grpc/tokenizer_service.h"
#include "server/net/acceptor.h"
#include "server/net/descriptors.h"
#include "server/net/listening_sockets.h"
#include "server/observability/log.h"

namespace winnow {
namespace {

/// Clients that vanished without a word are noticed, and their KV blocks freed, within the sum.
constexpr int kKeepaliveMs = 30'000;
constexpr int kKeepaliveTimeoutMs = 10'000;
/// How often Shutdown looks whether calls have ended, and what it gives their last bytes to leave.
constexpr absl::Duration kShutdownPoll = absl::Milliseconds(5);
constexpr absl::Duration kCloseGrace = absl::Milliseconds(100);
/// How often it is logged that connections are refused.
constexpr absl::Duration kRefusalLogInterval = absl::Seconds(1);

/// For gRPC, which takes the largest number as "never".
int Milliseconds(absl::Duration duration) {
  return static_cast<int>(
      std::min<int64_t>(absl::ToInt64Milliseconds(duration), std::numeric_limits<int>::max()));
}

void LogFromGrpc(gpr_log_func_args* args) {
  const LogLevel level = args->severity == GPR_LOG_SEVERITY_ERROR  ? LogLevel::kError
                         : args->severity == GPR_LOG_SEVERITY_INFO ? LogLevel::kInfo
                                                                   : LogLevel::kDebug;
  Log(level, "grpc", {{"file", args->file}, {"line", args->line}, {"message", args->message}});
}

/// gRPC has every server of the process reflect; this has one not.
class WithoutReflection final : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments* /*arguments*/) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    std::erase_if(*plugins, [](const auto& plugin) {
      return dynamic_cast<grpc::reflection::ProtoServerReflectionPlugin*>(plugin.get()) != nullptr;
    });
  }
};

}  // namespace

struct GrpcServer::State {
  explicit State(SessionContext& shared) : context(shared) {}

  SessionContext& context;
  GenerationServiceImpl generation{context};
  TokenizerServiceImpl tokenizer{context};
  ModelServiceImpl model{context};
  /// Takes connections that somebody else has accepted: gRPC's own listener stops for good once it
  /// lacks a descriptor.
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> connections;
  std::unique_ptr<grpc::Server> server;  ///< behind the services, so that calls end before them
  std::optional<Acceptor> acceptor;      ///< last, so that nothing comes to a server that is gone
};

GrpcServer::GrpcServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

GrpcServer::~GrpcServer() { Shutdown(absl::ZeroDuration()); }

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const GrpcServerOptions& options,
                                                              SessionContext& context) {
  gpr_set_log_function(LogFromGrpc);
  LogProtobufMessages();
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  absl::StatusOr<ListeningSockets> sockets =
      ListeningSockets::Open(options.address, options.reuse_port, kKeepaliveTimeoutMs);
  if (!sockets.ok()) return sockets.status();
  auto state = std::make_unique<State>(context);
  grpc::ServerBuilder builder;
  using Type = grpc::ServerBuilder::experimental_type::ExternalConnectionType;
  state->connections =
      builder.experimental().AddExternalConnectionAcceptor(Type::FROM_FD, options.credentials);
  builder.RegisterService(&state->generation);
  builder.RegisterService(&state->tokenizer);
  builder.RegisterService(&state->model);
  if (!options.reflection) builder.SetOption(std::make_unique<WithoutReflection>());
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> guards;
  guards.push_back(std::make_unique<ReflectionGuard>(context.authenticator));
  builder.experimental().SetInterceptorCreators(std::move(guards));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             Milliseconds(options.min_ping_interval));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                             Milliseconds(options.max_connection_age));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams_per_connection);
  builder.SetMaxReceiveMessageSize(options.max_message_bytes);
  state->server = builder.BuildAndStart();
  if (state->server == nullptr) return absl::InternalError("gRPC can't start its server");
  state->acceptor.emplace(
      *std::move(sockets), std::max(0, DescriptorLimit() - kReservedDescriptors),
      Acceptor::Callbacks{
          .take =
              [connections = state->connections.get()](int listener, int connection) {
                grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters parameters;
                parameters.listener_fd = listener;
                parameters.fd = connection;
                connections->HandleNewConnection(&parameters);
              },
          .lacking =
              [&metrics = context.metrics, logged = absl::InfinitePast()]() mutable {
                metrics.OnConnectionRefused();
                if (absl::Now() - logged < kRefusalLogInterval) return;
                logged = absl::Now();
                Log(LogLevel::kWarning, "connections_refused",
                    {{"reason", "no file descriptor is left for them"},
                     {"descriptors", DescriptorLimit()}});
              }});
  std::unique_ptr<GrpcServer> server(new GrpcServer(std::move(state)));
  server->SetServing(false);
  return server;
}

const Address& GrpcServer::address() const { return state_->acceptor->address(); }

void GrpcServer::StopAccepting() { state_->acceptor->Stop(); }

void GrpcServer::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* health = state_->server->GetHealthCheckService();
  health->SetServingStatus(serving);
  health->SetServingStatus(v1::GenerationService::service_full_name(), serving);
  health->SetServingStatus(v1::TokenizerService::service_full_name(), serving);
  health->SetServingStatus(v1::ModelService::service_full_name(), serving);
}

void GrpcServer::Shutdown(absl::Duration limit) {
  const absl::Time end = absl::Now() + limit;
  while (state_->context.open_calls > 0 && absl::Now() < end) absl::SleepFor(kShutdownPoll);
  if (absl::Now() < end) absl::SleepFor(kCloseGrace);
  // Without this gRPC would wait for the connections, which idle clients keep open, and end calls
  // that arrive meanwhile with CANCELLED, which nobody retries.
  state_->acceptor->Stop();
  grpc_server_cancel_all_calls(state_->server->c_server());
  state_->server->Shutdown(absl::ToChronoTime(absl::Now()));
}

}  // namespace winnow

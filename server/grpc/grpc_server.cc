#include "server/grpc/grpc_server.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
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
#include "server/grpc/model_service.h"
#include "server/grpc/reflection_guard.h"
#include "server/grpc/tokenizer_service.h"
#include "server/observability/log.h"

namespace winnow {
namespace {

/// Clients that vanished without a word are noticed, and their KV blocks freed, within the sum.
constexpr int kKeepaliveMs = 30'000;
constexpr int kKeepaliveTimeoutMs = 10'000;
/// How often Shutdown looks whether calls have ended, and what it gives their last bytes to leave.
constexpr absl::Duration kShutdownPoll = absl::Milliseconds(5);
constexpr absl::Duration kCloseGrace = absl::Milliseconds(100);

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
  int port = 0;
  std::unique_ptr<grpc::Server> server;  ///< last, so that calls end before the services do
};

GrpcServer::GrpcServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

GrpcServer::~GrpcServer() { Shutdown(absl::ZeroDuration()); }

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const GrpcServerOptions& options,
                                                              SessionContext& context) {
  gpr_set_log_function(LogFromGrpc);
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  auto state = std::make_unique<State>(context);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(options.address, options.credentials, &state->port);
  builder.RegisterService(&state->generation);
  builder.RegisterService(&state->tokenizer);
  builder.RegisterService(&state->model);
  if (!options.reflection) builder.SetOption(std::make_unique<WithoutReflection>());
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> guards;
  guards.push_back(std::make_unique<ReflectionGuard>(context.authenticator));
  builder.experimental().SetInterceptorCreators(std::move(guards));
  // Off by default: a second server would take half of the connections, by mistake.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, options.reuse_port ? 1 : 0);
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
  if (state->server == nullptr || state->port == 0) {
    return absl::UnavailableError(absl::StrCat("can't listen on ", options.address));
  }
  std::unique_ptr<GrpcServer> server(new GrpcServer(std::move(state)));
  server->SetServing(false);
  return server;
}

int GrpcServer::port() const { return state_->port; }

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
  grpc_server_cancel_all_calls(state_->server->c_server());
  state_->server->Shutdown(absl::ToChronoTime(absl::Now()));
}

}  // namespace winnow

#include "server/grpc/unary_call.h"

#include "server/grpc/call_context.h"
#include "server/grpc/status_mapping.h"

namespace winnow {

absl::Status CheckCall(const grpc::CallbackServerContext& call, const std::string& model,
                       const SessionContext& context) {
  const absl::StatusOr<Client> client = context.authenticator.Authenticate(CredentialsOf(call));
  return client.ok() ? CheckModelName(model, context.model) : client.status();
}

grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* call, SessionContext& context,
                                const char* method, const CallStatus& end) {
  context.metrics.OnCall(method, absl::StatusCodeToString(end.status.code()));
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  reactor->Finish(ToGrpcStatus(end));
  return reactor;
}

}  // namespace winnow

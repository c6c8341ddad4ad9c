#include "server/grpc/reflection_guard.h"

#include <string>

#include "absl/strings/match.h"
#include "grpc/grpc.h"
#include "server/grpc/call_context.h"

namespace winnow {
namespace {

using grpc::experimental::InterceptionHookPoints;

class ReflectionCall final : public grpc::experimental::Interceptor {
 public:
  ReflectionCall(const Authenticator& authenticator, grpc::ServerContextBase& call)
      : authenticator_(authenticator), call_(call) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA)) {
      const absl::StatusOr<Client> client = authenticator_.Authenticate(CredentialsOf(call_));
      if (!client.ok()) {
        // ServerContext::TryCancel would end the call as well, but not say why.
        const std::string message(client.status().message());
        grpc_call_cancel_with_status(call_.c_call(), GRPC_STATUS_UNAUTHENTICATED, message.c_str(),
                                     nullptr);
      }
    }
    methods->Proceed();
  }

 private:
  const Authenticator& authenticator_;
  grpc::ServerContextBase& call_;
};

}  // namespace

grpc::experimental::Interceptor* ReflectionGuard::CreateServerInterceptor(
    grpc::experimental::ServerRpcInfo* info) {
  if (!absl::StartsWith(info->method(), "/grpc.reflection.")) return nullptr;
  return new ReflectionCall(authenticator_, *info->server_context());
}

}  // namespace winnow

#pragma once

#include "grpcpp/support/server_interceptor.h"
#include "server/security/auth.h"

namespace winnow {

/// Ends calls of gRPC's reflection service whose clients do not belong: that service is gRPC's own
/// and asks nobody.
class ReflectionGuard final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  /// REQUIRES: `authenticator` outlives the server.
  explicit ReflectionGuard(const Authenticator& authenticator) : authenticator_(authenticator) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override;

 private:
  const Authenticator& authenticator_;
};

}  // namespace winnow

#include "server/grpc/call_context.h"

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "grpc/grpc.h"
#include "grpcpp/security/auth_context.h"

namespace winnow {
namespace {

/// The values of a header.
std::vector<std::string> Header(const grpc::ServerContextBase& call, const char* name) {
  std::vector<std::string> values;
  const auto [first, last] = call.client_metadata().equal_range(name);
  for (auto it = first; it != last; ++it) values.emplace_back(it->second.data(), it->second.size());
  return values;
}

/// The name in a client's certificate, which gRPC has verified: its first alternative name, or its
/// common name if it has none.
std::string CertificateName(const grpc::ServerContextBase& call) {
  const auto context = call.auth_context();
  if (context == nullptr || !context->IsPeerAuthenticated()) return "";
  const std::vector<grpc::string_ref> names = context->GetPeerIdentity();
  return names.empty() ? "" : std::string(names[0].data(), names[0].size());
}

/// The peer's address without its port, such as "ipv4:192.0.2.7".
std::string PeerAddress(const grpc::ServerContextBase& call) {
  const std::string peer = call.peer();
  return absl::StartsWith(peer, "ip") ? peer.substr(0, peer.rfind(':')) : peer;
}

absl::Time DeadlineOf(const grpc::CallbackServerContext& call) {
  const auto deadline = call.deadline();
  return deadline == std::chrono::system_clock::time_point::max() ? absl::InfiniteFuture()
                                                                  : absl::FromChrono(deadline);
}

}  // namespace

Credentials CredentialsOf(const grpc::ServerContextBase& call) {
  return {.authorization = Header(call, "authorization"),
          .certificate_name = CertificateName(call),
          .peer_address = PeerAddress(call)};
}

IncomingCall IncomingCallOf(const grpc::CallbackServerContext& call, const char* method) {
  const std::vector<std::string> traceparents = Header(call, "traceparent");
  return {.method = method,
          .credentials = CredentialsOf(call),
          .deadline = DeadlineOf(call),
          .traceparent = traceparents.size() == 1 ? traceparents[0] : ""};
}

SlowReaders::Abort AbortOf(grpc::CallbackServerContext& call) {
  grpc_call_ref(call.c_call());
  const std::shared_ptr<grpc_call> reference(call.c_call(), grpc_call_unref);
  return [reference](const std::string& message) {
    grpc_call_cancel_with_status(reference.get(), GRPC_STATUS_ABORTED, message.c_str(), nullptr);
  };
}

}  // namespace winnow

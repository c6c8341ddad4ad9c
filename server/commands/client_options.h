#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/status.h"
#include "server/commands/flags.h"
#include "server/security/tls.h"

namespace winnow {

/// How the commands that call a server reach it, and as whom.
struct ClientOptions {
  std::string address = "127.0.0.1:50051";
  TlsFiles tls;
  std::string tls_server_name;
  std::string token_file;
};

/// Declares --address, --tls-ca, --tls-cert, --tls-key, --tls-server-name and --token-file.
void DeclareClientFlags(FlagSet& flags, ClientOptions& options);

/// What a call that failed says, with the server's address in front; its code where it says
/// nothing.
absl::Status CallError(const ClientOptions& options, const grpc::Status& status);

/// A server, and the token to show it.
class Connection {
 public:
  /// Does not connect yet: calls do. Errors name the file that can't be used.
  static absl::StatusOr<Connection> Open(const ClientOptions& options);

  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  /// To be called for every call before it starts.
  void Authorize(grpc::ClientContext& call) const;

 private:
  std::shared_ptr<grpc::Channel> channel_;
  std::string token_;
};

}  // namespace winnow

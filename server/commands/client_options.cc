#include "server/commands/client_options.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "grpcpp/create_channel.h"
#include "server/base/file.h"
#include "server/base/utf8.h"

namespace winnow {

void DeclareClientFlags(FlagSet& flags, ClientOptions& options) {
  flags.Add("address", &options.address, "HOST:PORT", "Where the server listens.");
  flags.Add("tls-ca", &options.tls.ca, "FILE",
            "Connect with TLS, to a server whose certificate comes from one of the CAs in this PEM "
            "file. Default: plaintext.");
  flags.Add("tls-cert", &options.tls.certificate, "FILE",
            "The client's certificate, in PEM, for servers that want one.");
  flags.Add("tls-key", &options.tls.key, "FILE", "The private key of --tls-cert, in PEM.");
  flags.Add("tls-server-name", &options.tls_server_name, "NAME",
            "The name that the server's certificate must have. Default: the host of --address.");
  flags.Add("token-file", &options.token_file, "FILE",
            "Holds the bearer token to send, for servers that want one.");
}

absl::Status CallError(const ClientOptions& options, const grpc::Status& status) {
  const auto code = static_cast<absl::StatusCode>(status.error_code());  // the same numbers
  const std::string reason =
      status.error_message().empty() ? absl::StatusCodeToString(code) : status.error_message();
  return absl::Status(code, absl::StrCat(options.address, ": ", reason));
}

absl::StatusOr<Connection> Connection::Open(const ClientOptions& options) {
  const auto credentials = MakeChannelCredentials(options.tls);
  if (!credentials.ok()) return credentials.status();
  Connection connection;
  if (!options.token_file.empty()) {
    const absl::StatusOr<std::string> text = ReadFile(options.token_file);
    if (!text.ok()) return text.status();
    const std::string word(WithoutByteOrderMark(*text));
    connection.token_ = std::string(absl::StripAsciiWhitespace(word));
    const auto visible = [](unsigned char c) { return absl::ascii_isgraph(c); };
    if (connection.token_.empty() ||
        !std::all_of(connection.token_.begin(), connection.token_.end(), visible)) {
      return absl::InvalidArgumentError(
          absl::StrCat(options.token_file, " must hold one word, the token"));
    }
  }
  grpc::ChannelArguments arguments;
  if (!options.tls_server_name.empty()) {
    arguments.SetSslTargetNameOverride(options.tls_server_name);
  }
  connection.channel_ = grpc::CreateCustomChannel(options.address, *credentials, arguments);
  return connection;
}

void Connection::Authorize(grpc::ClientContext& call) const {
  if (!token_.empty()) call.AddMetadata("authorization", "Bearer " + token_);
}

}  // namespace winnow

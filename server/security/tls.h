#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/security/server_credentials.h"

namespace winnow {

/// The files of one end of TLS connections, in PEM. Empty paths: not given.
struct TlsFiles {
  std::string certificate;  ///< this end's certificate, followed by those that link it to a CA
  std::string key;          ///< the private key that belongs to it
  std::string ca;           ///< certificates of the CAs that the other end's must come from

  bool any() const { return !certificate.empty() || !key.empty() || !ca.empty(); }
};

/// What a server listens with: plaintext without files, TLS with certificate and key, and with a
/// CA only clients whose certificates come from it. Files that change are read again within
/// seconds, for connections made afterwards. INVALID_ARGUMENT names the file and what it lacks.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsFiles& files);

/// What a client connects with: plaintext without files, else TLS to servers whose certificates
/// come from the CA, which must be given; certificate and key for servers that want them.
/// INVALID_ARGUMENT names the file and what it lacks.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(
    const TlsFiles& files);

}  // namespace winnow

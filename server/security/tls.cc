#include "server/security/tls.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_credentials_options.h"
#include "server/base/file.h"

namespace winnow {
namespace {

/// How often files are looked at: soon after a change, and far too seldom to cost anything.
constexpr unsigned kReloadSeconds = 1;

using CertificatePtr = std::unique_ptr<X509, decltype(&X509_free)>;
using KeyPtr = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;
using BioPtr = std::unique_ptr<BIO, decltype(&BIO_free)>;

BioPtr Memory(const std::string& text) {
  return {BIO_new_mem_buf(text.data(), static_cast<int>(text.size())), BIO_free};
}

CertificatePtr FirstCertificate(const std::string& pem) {
  return {PEM_read_bio_X509(Memory(pem).get(), nullptr, nullptr, nullptr), X509_free};
}

/// An encrypted key is none: there is nobody to ask for its password.
KeyPtr PrivateKey(const std::string& pem) {
  const auto no_password = [](char*, int, int, void*) { return -1; };
  return {PEM_read_bio_PrivateKey(Memory(pem).get(), nullptr, no_password, nullptr), EVP_PKEY_free};
}

/// The files' contents. `certificate` and `key` both or neither.
struct TlsContents {
  std::string certificate;
  std::string key;
  std::string ca;
};

/// Reads the files and checks what gRPC would only complain of when somebody connects.
absl::StatusOr<TlsContents> Read(const TlsFiles& files) {
  if (files.certificate.empty() != files.key.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key must be given together");
  }
  TlsContents contents;
  for (const auto& [path, content] :
       {std::pair(&files.certificate, &contents.certificate), std::pair(&files.key, &contents.key),
        std::pair(&files.ca, &contents.ca)}) {
    if (path->empty()) continue;
    absl::StatusOr<std::string> text = ReadFile(*path);
    if (!text.ok()) return text.status();
    *content = *std::move(text);
  }
  if (!files.ca.empty() && FirstCertificate(contents.ca) == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(files.ca, " holds no certificate in PEM"));
  }
  if (files.certificate.empty()) return contents;
  const CertificatePtr certificate = FirstCertificate(contents.certificate);
  if (certificate == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(files.certificate, " holds no certificate in PEM"));
  }
  const KeyPtr key = PrivateKey(contents.key);
  if (key == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(files.key, " holds no unencrypted private key in PEM"));
  }
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return absl::InvalidArgumentError(absl::StrCat("the private key in ", files.key,
                                                   " does not belong to the certificate in ",
                                                   files.certificate));
  }
  return contents;
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsFiles& files) {
  if (!files.any()) return grpc::InsecureServerCredentials();
  if (files.certificate.empty() && files.key.empty()) {
    return absl::InvalidArgumentError("--tls-client-ca needs --tls-cert and --tls-key");
  }
  const absl::StatusOr<TlsContents> contents = Read(files);
  ERR_clear_error();
  if (!contents.ok()) return contents.status();
  grpc::experimental::TlsServerCredentialsOptions options(
      std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
          files.key, files.certificate, files.ca, kReloadSeconds));
  options.watch_identity_key_cert_pairs();
  if (!files.ca.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(options);
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(
    const TlsFiles& files) {
  if (!files.any()) return grpc::InsecureChannelCredentials();
  if (files.ca.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key need --tls-ca");
  }
  absl::StatusOr<TlsContents> contents = Read(files);
  ERR_clear_error();
  if (!contents.ok()) return contents.status();
  return grpc::SslCredentials({.pem_root_certs = std::move(contents->ca),
                               .pem_private_key = std::move(contents->key),
                               .pem_cert_chain = std::move(contents->certificate)});
}

}  // namespace winnow

// Who is let in: TLS, client certificates, bearer tokens and their limits, on the real server.

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "tests/integration/certificates.h"
#include "tests/integration/client.h"
#include "tests/integration/server_process.h"

namespace winnow {
namespace {

using ::testing::HasSubstr;

/// For changes of files, which the server looks for once a second.
constexpr absl::Duration kReloadLimit = absl::Seconds(20);

bool Becomes(const std::function<bool()>& condition) {
  const absl::Time end = absl::Now() + kReloadLimit;
  while (!condition()) {
    if (absl::Now() > end) return false;
    absl::SleepFor(absl::Milliseconds(100));
  }
  return true;
}

/// `winnow serve` with little memory.
std::unique_ptr<ServerProcess> StartSmall(std::vector<std::string> flags) {
  flags.insert(flags.end(), {"--max-context", "512", "--kv-tokens", "1024"});
  auto server = ServerProcess::Start(flags);
  EXPECT_TRUE(server.ok()) << server.status();
  return server.ok() ? *std::move(server) : nullptr;
}

/// The one line of a server that does not start.
std::string RefusalToStart(std::vector<std::string> flags) {
  flags.insert(flags.begin(), {"serve", "--model", DemoModelPath(), "--address", "127.0.0.1:0",
                               "--metrics-address", "127.0.0.1:0"});
  const CommandResult result = RunWinnow(flags);
  EXPECT_EQ(result.exit_status, 1) << result.output;
  const size_t begin = result.output.find("winnow serve: ");
  EXPECT_NE(begin, std::string::npos) << result.output;
  return result.output.substr(begin);
}

class TlsTest : public testing::Test {
 protected:
  /// Whether a client who trusts `authority` and shows `client`'s certificate, if any, is served.
  static bool IsServed(const ServerProcess& server, const CertificateFiles& authority,
                       const CertificateFiles* client = nullptr) {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = Contents(authority.certificate);
    if (client != nullptr) {
      options.pem_cert_chain = Contents(client->certificate);
      options.pem_private_key = Contents(client->key);
    }
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const auto stub = v1::GenerationService::NewStub(
        grpc::CreateCustomChannel(server.address(), grpc::SslCredentials(options), arguments));
    return Complete(*stub, Greedy("x", 1)).status.ok();
  }

  CertificateFolder folder_;
  const CertificateFiles authority_ = folder_.MakeAuthority("authority");
  const CertificateFiles other_authority_ = folder_.MakeAuthority("other-authority");
  const CertificateFiles server_ = folder_.Make("server", "IP:127.0.0.1", authority_);
};

TEST_F(TlsTest, ServesOverTlsAloneAndClientsCheckWhomTheyTalkTo) {
  const auto server = StartSmall({"--tls-cert", server_.certificate, "--tls-key", server_.key});
  ASSERT_NE(server, nullptr);
  EXPECT_TRUE(IsServed(*server, authority_));
  EXPECT_FALSE(IsServed(*server, other_authority_));
  const auto plaintext = v1::GenerationService::NewStub(Connect(server->address()));
  EXPECT_EQ(Complete(*plaintext, Greedy("x", 1)).status.error_code(),
            grpc::StatusCode::UNAVAILABLE);
}

TEST_F(TlsTest, ACommandIsServedWithTheAuthorityAndTheNameOfTheCertificate) {
  const auto server = StartSmall({"--tls-cert", server_.certificate, "--tls-key", server_.key});
  ASSERT_NE(server, nullptr);
  const std::vector<std::string> health = {"health", "--address", server->address()};
  const auto with = [](std::vector<std::string> command, const std::vector<std::string>& more) {
    command.insert(command.end(), more.begin(), more.end());
    return RunWinnow(command);
  };
  EXPECT_EQ(with(health, {}).exit_status, 1);
  EXPECT_EQ(with(health, {"--tls-ca", authority_.certificate}).exit_status, 0);
  EXPECT_EQ(with(health, {"--tls-ca", other_authority_.certificate}).exit_status, 1);
  EXPECT_EQ(
      with(health, {"--tls-ca", authority_.certificate, "--tls-server-name", "other"}).exit_status,
      1);
  const CommandResult generated =
      with({"generate", "--address", server->address(), "--prompt", "x", "--max-tokens", "1"},
           {"--tls-ca", authority_.certificate});
  EXPECT_EQ(generated.exit_status, 0) << generated.output;
}

TEST_F(TlsTest, MutualTlsLetsInOnlyClientsOfTheAuthority) {
  const CertificateFiles client = folder_.Make("client", "DNS:client", authority_);
  const CertificateFiles stranger = folder_.Make("stranger", "DNS:client", other_authority_);
  const auto server = StartSmall({"--tls-cert", server_.certificate, "--tls-key", server_.key,
                                  "--tls-client-ca", authority_.certificate});
  ASSERT_NE(server, nullptr);
  EXPECT_TRUE(IsServed(*server, authority_, &client));
  EXPECT_FALSE(IsServed(*server, authority_));
  EXPECT_FALSE(IsServed(*server, authority_, &stranger));
  const CommandResult health =
      RunWinnow({"health", "--address", server->address(), "--tls-ca", authority_.certificate,
                 "--tls-cert", client.certificate, "--tls-key", client.key});
  EXPECT_EQ(health.exit_status, 0) << health.output;
}

TEST_F(TlsTest, NewCertificatesAreTakenWithoutARestart) {
  const CertificateFiles successor = folder_.Make("successor", "IP:127.0.0.1", other_authority_);
  const auto server = StartSmall({"--tls-cert", server_.certificate, "--tls-key", server_.key});
  ASSERT_NE(server, nullptr);
  ASSERT_TRUE(IsServed(*server, authority_));
  Replace(server_.key, Contents(successor.key));
  Replace(server_.certificate, Contents(successor.certificate));
  EXPECT_TRUE(Becomes([&] { return IsServed(*server, other_authority_); })) << server->Log();
  EXPECT_FALSE(IsServed(*server, authority_));
}

TEST_F(TlsTest, AFileThatCannotServeStopsTheStartWithItsName) {
  const std::string& certificate = server_.certificate;
  const std::string& key = server_.key;
  EXPECT_THAT(RefusalToStart({"--tls-cert", certificate}), HasSubstr("--tls-key"));
  EXPECT_THAT(RefusalToStart({"--tls-client-ca", certificate}), HasSubstr("needs --tls-cert"));
  EXPECT_THAT(RefusalToStart({"--tls-cert", folder_.Path("none"), "--tls-key", key}),
              HasSubstr("can't read the file " + folder_.Path("none")));
  EXPECT_THAT(RefusalToStart({"--tls-cert", key, "--tls-key", key}),
              HasSubstr(key + " holds no certificate in PEM"));
  EXPECT_THAT(RefusalToStart({"--tls-cert", certificate, "--tls-key", certificate}),
              HasSubstr(certificate + " holds no unencrypted private key in PEM"));
  EXPECT_THAT(RefusalToStart({"--tls-cert", certificate, "--tls-key", authority_.key}),
              HasSubstr("does not belong to the certificate in " + certificate));
  EXPECT_THAT(RefusalToStart({"--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", key}),
              HasSubstr(key + " holds no certificate in PEM"));
}

}  // namespace
}  // namespace winnow

#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/security/client_quota.h"
#include "server/security/credentials.h"
#include "server/security/token_file.h"

namespace winnow {

/// Who makes a call.
struct Client {
  /// What tells clients apart: "token:NAME" of the token file, "certificate:NAME" of a client's
  /// certificate, else the peer's address without its port, such as "ipv4:192.0.2.7".
  std::string identity;
  std::shared_ptr<ClientQuota> quota;  ///< of a token's holder; null for others
};

/// Lets in the clients that belong. Safe to use from several threads.
class Authenticator {
 public:
  /// With a token file, only holders of a token of it; without (an empty path) everybody that the
  /// connection let in. Errors name the file and what is wrong with it.
  static absl::StatusOr<std::unique_ptr<Authenticator>> Open(const std::string& token_file);

  bool wants_tokens() const { return !path_.empty(); }

  /// Who makes the call. UNAUTHENTICATED without a token where one is wanted, or with a wrong one.
  absl::StatusOr<Client> Authenticate(const Credentials& credentials) const;

  /// Reads the token file again; true if it has changed. What holders have taken of their limits
  /// stays taken. An error leaves everything as it was; the same contents are then not tried again.
  absl::StatusOr<bool> Reload();

 private:
  struct Holder {
    TokenHolder entry;
    std::shared_ptr<ClientQuota> quota;
  };

  explicit Authenticator(std::string path) : path_(std::move(path)) {}

  const std::string path_;
  std::string text_;  ///< of the file, as last read; Reload's alone
  mutable absl::Mutex mutex_;
  std::vector<Holder> holders_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace winnow

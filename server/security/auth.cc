#include "server/security/auth.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/base/file.h"

namespace winnow {
namespace {

constexpr char kScheme[] = "bearer ";
constexpr size_t kSchemeBytes = sizeof(kScheme) - 1;

absl::StatusOr<std::string> BearerToken(const Credentials& credentials) {
  if (credentials.authorization.empty()) {
    return absl::UnauthenticatedError("the call needs a bearer token in its authorization header");
  }
  const std::string& value = credentials.authorization.front();
  if (credentials.authorization.size() > 1 || !absl::StartsWithIgnoreCase(value, kScheme)) {
    return absl::UnauthenticatedError("the authorization header must be Bearer and one token");
  }
  return value.substr(kSchemeBytes);
}

/// Takes as long whatever the digests hold, and however many of `digests` are equal.
bool Contains(const std::vector<Sha256Digest>& digests, const Sha256Digest& wanted) {
  bool found = false;
  for (const Sha256Digest& digest : digests) {
    found |= CRYPTO_memcmp(digest.data(), wanted.data(), wanted.size()) == 0;
  }
  return found;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Authenticator>> Authenticator::Open(const std::string& token_file) {
  std::unique_ptr<Authenticator> authenticator(new Authenticator(token_file));
  if (token_file.empty()) return authenticator;
  if (const absl::StatusOr<bool> loaded = authenticator->Reload(); !loaded.ok()) {
    return loaded.status();
  }
  return authenticator;
}

absl::StatusOr<Client> Authenticator::Authenticate(const Credentials& credentials) const {
  if (!wants_tokens()) {
    const std::string& name = credentials.certificate_name;
    return Client{.identity = name.empty() ? credentials.peer_address : "certificate:" + name,
                  .quota = nullptr};
  }
  const absl::StatusOr<std::string> token = BearerToken(credentials);
  if (!token.ok()) return token.status();
  const Sha256Digest digest = Sha256(*token);
  const Holder* found = nullptr;
  absl::MutexLock lock(&mutex_);
  for (const Holder& holder : holders_) {
    if (Contains(holder.entry.digests, digest)) found = &holder;
  }
  if (found == nullptr) return absl::UnauthenticatedError("the bearer token is not a known one");
  return Client{.identity = "token:" + found->entry.name, .quota = found->quota};
}

absl::StatusOr<bool> Authenticator::Reload() {
  if (!wants_tokens()) return false;
  absl::StatusOr<std::string> text = ReadFile(path_);
  // A file that is gone for a moment, while it is replaced, is no change.
  if (!text.ok() && !text_.empty()) return false;
  if (!text.ok()) return text.status();
  if (*text == text_) return false;
  text_ = *std::move(text);
  absl::StatusOr<std::vector<TokenHolder>> entries = ParseTokenFile(text_);
  if (!entries.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": ", std::string(entries.status().message())));
  }
  absl::MutexLock lock(&mutex_);
  std::vector<Holder> holders;
  for (TokenHolder& entry : *entries) {
    const auto known = std::find_if(holders_.begin(), holders_.end(), [&](const Holder& holder) {
      return holder.entry.name == entry.name;
    });
    auto quota =
        known != holders_.end() ? known->quota : std::make_shared<ClientQuota>(entry.limits);
    quota->SetLimits(entry.limits);
    holders.push_back({std::move(entry), std::move(quota)});
  }
  holders_ = std::move(holders);
  return true;
}

}  // namespace winnow

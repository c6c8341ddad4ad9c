#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/security/client_quota.h"

namespace winnow {

using Sha256Digest = std::array<uint8_t, 32>;

Sha256Digest Sha256(std::string_view text);

/// A holder of bearer tokens, as the token file knows it.
struct TokenHolder {
  std::string name;
  std::vector<Sha256Digest> digests;  ///< of its tokens; any of them will do
  QuotaLimits limits;
};

/// Reads the text of a token file: one holder a line, `#` starting a comment,
///
///     NAME: sha256=HEX [sha256=HEX ...] [requests=N] [tokens-per-minute=N]
///
/// Two digests let a holder change its token while both are good. INVALID_ARGUMENT names the line
/// and what is wrong with it, and never repeats what may be a secret; a file without a holder is
/// wrong too, because it is most likely one that somebody is still writing.
absl::StatusOr<std::vector<TokenHolder>> ParseTokenFile(std::string_view text);

}  // namespace winnow

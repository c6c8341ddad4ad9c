#include "server/security/token_file.h"

#include <openssl/sha.h>

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/base/utf8.h"

namespace winnow {
namespace {

constexpr size_t kMaxNameBytes = 64;

bool IsName(const std::string& text) {
  return !text.empty() && text.size() <= kMaxNameBytes &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.' || c == '@';
         });
}

bool ParseDigest(const std::string& text, Sha256Digest* digest) {
  const bool is_hex = text.size() == 2 * digest->size() &&
                      std::all_of(text.begin(), text.end(),
                                  [](unsigned char c) { return absl::ascii_isxdigit(c); });
  if (!is_hex) return false;
  const std::string bytes = absl::HexStringToBytes(text);
  std::copy(bytes.begin(), bytes.end(), digest->begin());
  return true;
}

/// Sets what `name=value` says of the holder.
absl::Status Set(const std::string& name, const std::string& value, TokenHolder* holder) {
  if (name == "sha256") {
    holder->digests.emplace_back();
    if (ParseDigest(value, &holder->digests.back())) return absl::OkStatus();
    return absl::InvalidArgumentError("sha256 must be 64 hexadecimal digits");
  }
  if (name == "requests") {
    if (absl::SimpleAtoi(value, &holder->limits.requests) && holder->limits.requests > 0) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError("requests must be a whole number of at least 1");
  }
  if (name == "tokens-per-minute") {
    int64_t& tokens = holder->limits.tokens_per_minute;
    if (absl::SimpleAtoi(value, &tokens) && tokens > 0) return absl::OkStatus();
    return absl::InvalidArgumentError("tokens-per-minute must be a whole number of at least 1");
  }
  return absl::InvalidArgumentError(
      "what follows the name must be sha256=HEX, requests=N or tokens-per-minute=N");
}

absl::StatusOr<TokenHolder> ParseLine(const std::string& line) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 1));
  TokenHolder holder{
      .name = std::string(absl::StripAsciiWhitespace(parts.first)), .digests = {}, .limits = {}};
  if (!IsName(holder.name) || parts.first.size() == line.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("must begin with a name and a colon; a name has 1 to ", kMaxNameBytes,
                     " letters, digits or any of - _ . @"));
  }
  const std::vector<std::string> words =
      absl::StrSplit(parts.second, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
  for (const std::string& word : words) {
    const std::pair<std::string, std::string> setting =
        absl::StrSplit(word, absl::MaxSplits('=', 1));
    if (absl::Status status = Set(setting.first, setting.second, &holder); !status.ok()) {
      return status;
    }
  }
  if (holder.digests.empty()) return absl::InvalidArgumentError("sha256=HEX is missing");
  return holder;
}

}  // namespace

Sha256Digest Sha256(std::string_view text) {
  Sha256Digest digest;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  return digest;
}

absl::StatusOr<std::vector<TokenHolder>> ParseTokenFile(std::string_view text) {
  std::vector<TokenHolder> holders;
  int number = 0;
  const std::vector<std::string> lines =
      absl::StrSplit(std::string(WithoutByteOrderMark(text)), '\n');
  for (const std::string& line : lines) {
    ++number;
    const std::string content(absl::StripAsciiWhitespace(line.substr(0, line.find('#'))));
    if (content.empty()) continue;
    absl::StatusOr<TokenHolder> holder = ParseLine(content);
    if (!holder.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", number, ": ", std::string(holder.status().message())));
    }
    const bool repeats = std::any_of(holders.begin(), holders.end(),
                                     [&](const auto& other) { return other.name == holder->name; });
    if (repeats) {
      return absl::InvalidArgumentError(absl::StrCat(
          "line ", number, ": ", holder->name,
          " has a line already; further tokens of the same holder go there, as sha256=HEX"));
    }
    holders.push_back(*std::move(holder));
  }
  if (holders.empty()) return absl::InvalidArgumentError("there is no token in it");
  return holders;
}

}  // namespace winnow

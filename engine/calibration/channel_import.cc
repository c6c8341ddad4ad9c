#include "engine/calibration/channel_import.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace winnow {
namespace {

// The largest published file has 3 MB; bounds what a hostile file can claim.
constexpr uint64_t kMaxFileBytes = uint64_t{64} << 20;

absl::StatusOr<nlohmann::json> ReadJson(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status info = std::filesystem::status(path, error);
  if (info.type() == std::filesystem::file_type::not_found) {
    return absl::NotFoundError("there is no such file");
  }
  if (error || info.type() != std::filesystem::file_type::regular ||
      std::filesystem::file_size(path, error) > kMaxFileBytes || error) {
    return absl::InvalidArgumentError(
        absl::StrCat("it is not a regular file of at most ", kMaxFileBytes, " bytes"));
  }
  std::ifstream stream(path, std::ios::binary);
  nlohmann::json json = nlohmann::json::parse(stream, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("it does not hold a JSON object");
  return json;
}

// The place of each channel in the list: [head_dim]. Empty when it is no permutation of them.
std::vector<int> Places(const nlohmann::json& list, int head_dim) {
  if (!list.is_array() || list.size() != static_cast<size_t>(head_dim)) return {};
  std::vector<int> places(head_dim, -1);
  for (int place = 0; place < head_dim; ++place) {
    const nlohmann::json& entry = list[place];
    if (!entry.is_number_integer()) return {};
    const auto channel = entry.get<int64_t>();
    if (channel < 0 || channel >= head_dim || places[channel] >= 0) return {};
    places[channel] = place;
  }
  return places;
}

// The number in the model's file of a Hugging Face checkpoint's channel.
int ChannelOfFile(int channel, int head_dim, RopePairing pairing) {
  if (pairing == RopePairing::kHalves) return channel;
  const int half = head_dim / 2;
  return channel < half ? 2 * channel : 2 * (channel - half) + 1;
}

absl::StatusOr<ChannelRanking> Rank(const nlohmann::json& json, const ModelConfig& config,
                                    const std::string& which) {
  const int d = config.head_dim;
  ChannelRanking ranking;
  for (int layer = 0; layer < config.layers; ++layer) {
    const std::string key = absl::StrCat("model.layers.", layer, ".self_attn.", which, "_proj");
    const auto found = json.find(key);
    if (found == json.end()) return absl::InvalidArgumentError(key + " is missing");
    const size_t lists = found->is_array() ? found->size() : 0;
    if (lists != static_cast<size_t>(config.heads) &&
        lists != static_cast<size_t>(config.kv_heads)) {
      return absl::InvalidArgumentError(
          absl::StrCat(key, " holds ", lists, " lists; the model has ", config.heads,
                       " query heads and ", config.kv_heads, " KV heads"));
    }
    const size_t lists_per_head = lists / config.kv_heads;
    for (int g = 0; g < config.kv_heads; ++g) {
      std::vector<int> sums(d);  // of places, by the model file's channel numbers
      for (size_t i = g * lists_per_head; i < (g + 1) * lists_per_head; ++i) {
        const std::vector<int> places = Places((*found)[i], d);
        if (places.empty()) {
          return absl::InvalidArgumentError(
              absl::StrCat(key, "[", i, "] is not a permutation of the channels 0 to ", d - 1));
        }
        const RopePairing pairing = config.ropes[0].pairing;
        for (int c = 0; c < d; ++c) sums[ChannelOfFile(c, d, pairing)] += places[c];
      }
      std::vector<int> channels(d);
      std::iota(channels.begin(), channels.end(), 0);
      std::stable_sort(channels.begin(), channels.end(),
                       [&](int a, int b) { return sums[a] < sums[b]; });
      ranking.push_back(std::move(channels));
    }
  }
  if (json.contains(absl::StrCat("model.layers.", config.layers, ".self_attn.", which, "_proj"))) {
    return absl::InvalidArgumentError(
        absl::StrCat("it has more layers than the model's ", config.layers));
  }
  return ranking;
}

}  // namespace

absl::StatusOr<ChannelRanking> ImportChannelRanking(const std::string& path,
                                                    const ModelConfig& config,
                                                    const std::string& which) {
  const auto annotated = [&](const absl::Status& status) {
    return absl::Status(status.code(),
                        absl::StrCat("channel file ", path, ": ", std::string(status.message())));
  };
  const absl::StatusOr<nlohmann::json> json = ReadJson(path);
  if (!json.ok()) return annotated(json.status());
  absl::StatusOr<ChannelRanking> ranking = Rank(*json, config, which);
  if (!ranking.ok()) return annotated(ranking.status());
  return ranking;
}

}  // namespace winnow

#include "engine/scheduling/offers.h"

#include <algorithm>

namespace winnow {
namespace {

/// What a request that came still counts in the average after the next one.
constexpr double kMemory = 0.99;
/// Clients that came within this time have places kept, if there are not more of them than that.
constexpr absl::Duration kLately = absl::Seconds(15);
constexpr size_t kMaxLateClients = 1024;
constexpr double kKeptForEach = 2;

}  // namespace

void Offers::Note(const Request& request, const Forecast& forecast, absl::Time now) {
  came_[request.client] = now;
  if (came_.size() > kMaxLateClients) {
    std::erase_if(came_, [&](const auto& entry) { return entry.second < now - kLately; });
  }
  if (came_.size() > kMaxLateClients) {
    came_.erase(std::ranges::min_element(
        came_, {}, [](const auto& entry) { return entry.second; }));  // who came longest ago
  }
  if (request.deadline == absl::InfiniteFuture() || !forecast.known()) return;
  Load load = forecast.LoadOf(request);
  if (request.prompt_tokens.empty() && weight_ > 0) {
    load.prompt_tokens = sums_.prompt_tokens / weight_;
  }
  const double tokens = load.decode_tokens / load.sequences;
  const double seconds = absl::ToDoubleSeconds(request.deadline - now);
  const Forecast::Pace alone = forecast.PaceOf(0, load.sequences);
  if (forecast.EndSeconds(alone, load.prompt_tokens, tokens) > seconds) return;
  for (double* sum : {&weight_, &sums_.prompt_tokens, &sums_.tokens, &sums_.seconds}) {
    *sum *= kMemory;
  }
  weight_ += load.decode_tokens;
  sums_.prompt_tokens += load.decode_tokens * load.prompt_tokens;
  sums_.tokens += load.decode_tokens * tokens;
  sums_.seconds += load.decode_tokens * seconds;
}

std::optional<Offers::Average> Offers::average() const {
  if (weight_ == 0) return std::nullopt;
  return Average{sums_.prompt_tokens / weight_, sums_.tokens / weight_, sums_.seconds / weight_};
}

Load Offers::KeptForOthers(const std::string& client, const EngineLoad& engine,
                           absl::Time now) const {
  const std::optional<Average> each = average();
  if (!each.has_value()) return {};
  std::map<std::string, double> sequences = engine.running.client_sequences;
  for (const auto& [priority, clients] : engine.waiting.levels()) {
    for (const auto& [name, load] : clients) sequences[name] += load.sequences;
  }
  const double own = sequences[client];
  const auto others = static_cast<double>(std::ranges::count_if(came_, [&](const auto& entry) {
    return entry.second >= now - kLately && sequences[entry.first] < own;
  }));
  return Load{1, 1, each->prompt_tokens, each->tokens} * std::min(kKeptForEach * others, own);
}

}  // namespace winnow

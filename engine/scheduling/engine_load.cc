#include "engine/scheduling/engine_load.h"

namespace winnow {

Estimate EngineLoad::EndOf(int priority, const std::string& client, const Load& load,
                           const Load& more) const {
  const Load ahead = waiting.Ahead(priority, client, load) + more;
  const Forecast::Pace pace = forecast.PaceAfter(ahead, running, load, priority, client);
  return forecast.EndOf(pace, load.prompts, load.decode_tokens / load.sequences);
}

absl::Duration EngineLoad::EstimatedWait(int priority, const std::string& client) const {
  const Load ahead = waiting.Ahead(priority, client, {});
  const Forecast::Pace pace = forecast.PaceAfter(ahead, running, {}, priority, client);
  return absl::Seconds(forecast.WaitOf(pace).seconds);
}

absl::Duration EngineLoad::QueueWait() const {
  if (waiting.levels().empty()) return absl::ZeroDuration();
  const int lowest = waiting.levels().rbegin()->first;
  const Load last = waiting.total() * (1 / waiting.total().sequences);
  const Load ahead = waiting.total() + last * -1;
  const Forecast::Pace pace = forecast.PaceAfter(ahead, running, last, lowest, /*client=*/"");
  return absl::Seconds(forecast.WaitOf(pace).seconds);
}

double EngineLoad::SequencesOf(const std::string& client) const {
  const auto runs = running.client_sequences.find(client);
  double sequences = runs == running.client_sequences.end() ? 0 : runs->second;
  for (const auto& [priority, clients] : waiting.levels()) {
    const auto waits = clients.find(client);
    if (waits != clients.end()) sequences += waits->second.sequences;
  }
  return sequences;
}

}  // namespace winnow

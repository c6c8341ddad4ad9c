#include "engine/scheduling/load.h"

#include <algorithm>

#include "engine/scheduling/waiting_queue.h"

namespace winnow {

Load& Load::operator+=(const Load& other) {
  requests += other.requests;
  sequences += other.sequences;
  prompt_tokens += other.prompt_tokens;
  decode_tokens += other.decode_tokens;
  prompts += other.prompts;
  context += other.context;
  return *this;
}

Load& Load::operator-=(const Load& other) { return *this += other * -1; }

Load Load::operator*(double factor) const {
  return {.requests = requests * factor,
          .sequences = sequences * factor,
          .prompt_tokens = prompt_tokens * factor,
          .decode_tokens = decode_tokens * factor,
          .prompts = prompts * factor,
          .context = context * factor};
}

double Load::service() const {
  return prompt_tokens * kPromptTokenService + decode_tokens * kDecodeTokenService;
}

void WaitingLoad::Add(const Request& request, const Load& load) {
  levels_[request.priority][request.client] += load;
  total_ += load;
}

void WaitingLoad::Remove(const Request& request, const Load& load) {
  const auto level = levels_.find(request.priority);
  const auto client = level->second.find(request.client);
  client->second -= load;
  total_ -= load;
  if (client->second.requests == 0) level->second.erase(client);
  if (level->second.empty()) levels_.erase(level);
  if (levels_.empty()) total_ = {};  // no rest of rounding
}

Load WaitingLoad::Ahead(int priority, const std::string& client, const Load& own) const {
  Load ahead;
  for (const auto& [level, clients] : levels_) {
    if (level > priority) break;
    const auto found = clients.find(client);
    const Load before = found == clients.end() ? Load{} : found->second;
    const double share = before.service() + own.service();
    for (const auto& [name, load] : clients) {
      const bool all = level < priority || name == client || load.service() <= share;
      ahead += all ? load : load * (share / load.service());
    }
  }
  return ahead;
}

void RunningPrompts::Add(int priority, const std::string& client, const Work& prompt) {
  if (prompt.prompt_tokens > 0) levels_[priority][client] += prompt;
}

Work RunningPrompts::Beside(int priority, const std::string& client, const Work& own) const {
  Work beside;
  for (const auto& [level, clients] : levels_) {
    if (level > priority) break;
    const auto mine = clients.find(client);
    double least = own.prompt_tokens;
    if (mine != clients.end() && own.prompt_tokens > mine->second.prompt_tokens / 2) {
      least += mine->second.prompt_tokens;
    }
    for (const auto& [name, prompts] : clients) {
      const double share = level < priority ? 1 : least / prompts.prompt_tokens;
      beside += prompts * std::min(1.0, share);
    }
  }
  return beside;
}

void RunningLoad::Add(int priority, const std::string& client, const Load& load) {
  levels[priority] += load;
  prompts.Add(priority, client, load.prompts);
  client_sequences[client] += load.sequences;
}

Load RunningLoad::DownTo(int priority) const {
  Load sum;
  for (const auto& [level, load] : levels) {
    if (level <= priority) sum += load;
  }
  return sum;
}

}  // namespace winnow

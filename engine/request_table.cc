#include "engine/request_table.h"

#include <algorithm>
#include <utility>

#include "engine/base/check.h"

namespace winnow {

ActiveRequest& RequestTable::Add(std::unique_ptr<ActiveRequest> request) {
  const uint64_t id = request->request().id;
  const auto [entry, is_new] = requests_.emplace(id, std::move(request));
  WINNOW_CHECK(is_new);
  return *entry->second;
}

std::unique_ptr<ActiveRequest> RequestTable::Remove(const ActiveRequest& request) {
  const auto entry = requests_.find(request.request().id);
  WINNOW_CHECK(entry != requests_.end());
  std::unique_ptr<ActiveRequest> removed = std::move(entry->second);
  requests_.erase(entry);
  return removed;
}

ActiveRequest* RequestTable::Find(uint64_t id) const {
  const auto entry = requests_.find(id);
  return entry == requests_.end() ? nullptr : entry->second.get();
}

std::vector<ActiveRequest*> RequestTable::all() const {
  std::vector<ActiveRequest*> result;
  result.reserve(requests_.size());
  for (const auto& [id, request] : requests_) result.push_back(request.get());
  return result;
}

absl::Time RequestTable::NextDeadline() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [id, request] : requests_) next = std::min(next, request->request().deadline);
  return next;
}

ActiveRequest* RequestTable::YoungestWaiting(int priority, const std::string& client) const {
  ActiveRequest* youngest = nullptr;
  for (const auto& [id, request] : requests_) {
    if (request->started() || request->request().priority != priority ||
        request->request().client != client) {
      continue;
    }
    if (youngest == nullptr || request->first().arrival() > youngest->first().arrival()) {
      youngest = request.get();
    }
  }
  return youngest;
}

}  // namespace winnow

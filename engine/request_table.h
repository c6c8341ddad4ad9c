#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "engine/active_request.h"
#include "engine/sequence/sequence.h"

namespace winnow {

/// The requests that the engine has taken and not ended, by their ids.
class RequestTable {
 public:
  /// REQUIRES: no other one has its id.
  ActiveRequest& Add(std::unique_ptr<ActiveRequest> request);
  /// Takes it out.
  std::unique_ptr<ActiveRequest> Remove(const ActiveRequest& request);

  /// Null if there is none of that id.
  ActiveRequest* Find(uint64_t id) const;
  /// Whose sequence it is. REQUIRES: its request is here.
  ActiveRequest& Of(const Sequence& sequence) const { return *Find(sequence.request().id); }

  int size() const { return static_cast<int>(requests_.size()); }
  bool empty() const { return requests_.empty(); }
  /// All of them, in the order of ids: they may be removed while one walks through the result.
  std::vector<ActiveRequest*> all() const;

  /// When the next deadline comes.
  absl::Time NextDeadline() const;
  /// Of those of this client and priority that wait, the one that came last; null if none does.
  ActiveRequest* YoungestWaiting(int priority, const std::string& client) const;

 private:
  std::map<uint64_t, std::unique_ptr<ActiveRequest>> requests_;
};

}  // namespace winnow

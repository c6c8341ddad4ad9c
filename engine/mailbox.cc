#include "engine/mailbox.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace winnow {

absl::Status Mailbox::Submit(Request request, RequestSink* sink, absl::Time now) {
  std::lock_guard lock(mutex_);
  if (closed_) return absl::UnavailableError("the server is shutting down");
  if (unadmitted_ + static_cast<int>(messages_.submissions.size()) >= max_waiting_requests_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: ", max_waiting_requests_, " requests are waiting"));
  }
  messages_.submissions.push_back({std::move(request), sink, now});
  posted_.notify_one();
  return absl::OkStatus();
}

void Mailbox::Cancel(uint64_t request_id) {
  std::lock_guard lock(mutex_);
  messages_.cancellations.push_back(request_id);
  posted_.notify_one();
}

void Mailbox::Wake() {
  std::lock_guard lock(mutex_);
  messages_.wake = true;
  posted_.notify_one();
}

void Mailbox::Drain(absl::Time limit) {
  std::lock_guard lock(mutex_);
  closed_ = true;
  messages_.drain_until = limit;
  posted_.notify_one();
}

void Mailbox::Stop() {
  std::lock_guard lock(mutex_);
  closed_ = true;
  messages_.stop = true;
  posted_.notify_one();
}

Messages Mailbox::Take(absl::Time until) {
  std::unique_lock lock(mutex_);
  if (until > absl::InfinitePast()) {
    posted_.wait_until(lock, absl::ToChronoTime(until), [this] { return HasMessages(); });
  }
  unadmitted_ += static_cast<int>(messages_.submissions.size());
  return std::exchange(messages_, {});
}

void Mailbox::SetUnadmitted(int requests) {
  std::lock_guard lock(mutex_);
  unadmitted_ = requests;
}

bool Mailbox::HasMessages() const {
  return !messages_.submissions.empty() || !messages_.cancellations.empty() ||
         messages_.drain_until || messages_.wake || messages_.stop;
}

}  // namespace winnow

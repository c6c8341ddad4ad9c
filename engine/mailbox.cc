#include "engine/mailbox.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace winnow {

absl::Status Mailbox::Submit(Request request, RequestSink* sink, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  if (closed_) return absl::UnavailableError("the server is shutting down");
  if (unadmitted_ + static_cast<int>(messages_.submissions.size()) >= max_waiting_requests_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: ", max_waiting_requests_, " requests are waiting"));
  }
  messages_.submissions.push_back({std::move(request), sink, now});
  return absl::OkStatus();
}

void Mailbox::Cancel(uint64_t request_id) {
  absl::MutexLock lock(&mutex_);
  messages_.cancellations.push_back(request_id);
}

void Mailbox::Wake() {
  absl::MutexLock lock(&mutex_);
  messages_.wake = true;
}

void Mailbox::Drain(absl::Time limit) {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
  messages_.drain_until = limit;
}

void Mailbox::Stop() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
  messages_.stop = true;
}

Messages Mailbox::Take(absl::Time until) {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithDeadline(absl::Condition(this, &Mailbox::HasMessages), until);
  unadmitted_ += static_cast<int>(messages_.submissions.size());
  return std::exchange(messages_, {});
}

void Mailbox::SetUnadmitted(int requests) {
  absl::MutexLock lock(&mutex_);
  unadmitted_ = requests;
}

bool Mailbox::HasMessages() const {
  return !messages_.submissions.empty() || !messages_.cancellations.empty() ||
         messages_.drain_until || messages_.wake || messages_.stop;
}

}  // namespace winnow

#include "engine/mailbox.h"

#include <utility>

namespace winnow {

absl::Status Mailbox::CheckOutline(const Request& outline, absl::Time now) {
  std::lock_guard lock(mutex_);
  absl::Status status = Check(outline, now);
  if (!status.ok()) offers_.Note(outline, engine_.forecast, now);  // else Submit does
  return status;
}

absl::Status Mailbox::Submit(Request request, RequestSink* sink, absl::Time now) {
  std::lock_guard lock(mutex_);
  offers_.Note(request, engine_.forecast, now);
  if (absl::Status status = Check(request, now); !status.ok()) return status;
  Count(request);
  messages_.submissions.push_back({std::move(request), sink, now});
  posted_.notify_one();
  return absl::OkStatus();
}

absl::Status Mailbox::Check(const Request& request, absl::Time now) {
  if (closed_) return absl::UnavailableError("the server is shutting down");
  absl::Status status = admission_.Check(request, engine_, offers_, now);
  if (!status.ok()) offers_.NoteRefusal(request, now);
  return status;
}

void Mailbox::Count(const Request& request) {
  engine_.waiting.Add(request, engine_.forecast.LoadOf(request, /*known=*/0));
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

Messages Mailbox::Collect(absl::Time until) {
  std::unique_lock lock(mutex_);
  if (until > absl::InfinitePast()) {
    posted_.wait_until(lock, absl::ToChronoTime(until), [this] { return HasMessages(); });
  }
  return std::exchange(messages_, {});
}

Load Mailbox::Publish(EngineLoad engine) {
  std::lock_guard lock(mutex_);
  engine_ = std::move(engine);
  for (const Submission& submission : messages_.submissions) Count(submission.request);
  return engine_.waiting.total();
}

bool Mailbox::HasMessages() const {
  return !messages_.submissions.empty() || !messages_.cancellations.empty() ||
         messages_.drain_until || messages_.wake || messages_.stop;
}

}  // namespace winnow

#include "server/session/stream.h"

#include <utility>

namespace winnow {

RequestStream::RequestStream(int continuations, size_t capacity, std::function<void()> ready,
                             std::function<void()> wake_engine)
    : capacity_(capacity),
      ready_(std::move(ready)),
      wake_engine_(std::move(wake_engine)),
      running_(continuations) {}

bool RequestStream::HasSomething() const {
  return batch_.summary.has_value() || (!batch_.outputs.empty() && running_ > 0);
}

bool RequestStream::MustTellWriter() {
  if (!writer_waits_ || !HasSomething()) return false;
  writer_waits_ = false;
  return true;
}

std::optional<RequestStream::Batch> RequestStream::Take() {
  Batch taken;
  bool was_full = false;
  {
    absl::MutexLock lock(&mutex_);
    if (!HasSomething()) {
      writer_waits_ = true;
      return std::nullopt;
    }
    was_full = batch_.outputs.size() >= capacity_;
    taken = std::exchange(batch_, Batch{});
  }
  if (was_full) wake_engine_();
  return taken;
}

void RequestStream::DiscardOutputs() {
  absl::MutexLock lock(&mutex_);
  discard_ = true;
  batch_.outputs.clear();
}

bool RequestStream::HasRoom() const {
  absl::MutexLock lock(&mutex_);
  return batch_.outputs.size() < capacity_;
}

// The writer may destroy the stream as soon as it has the summary, so OnFinished touches nothing of
// it once the lock is released.

void RequestStream::OnOutput(Output output) {
  bool tell_writer = false;
  {
    absl::MutexLock lock(&mutex_);
    if (output.finish_reason.has_value()) --running_;
    if (!discard_) batch_.outputs.push_back(std::move(output));
    tell_writer = MustTellWriter();
  }
  if (tell_writer) ready_();
}

void RequestStream::OnFinished(RequestSummary summary) {
  std::function<void()> ready;
  {
    absl::MutexLock lock(&mutex_);
    batch_.summary = std::move(summary);
    if (MustTellWriter()) ready = ready_;
  }
  if (ready) ready();
}

}  // namespace winnow

#include "engine/engine.h"

#include <utility>

#include "absl/time/clock.h"
#include "engine/request/request_check.h"

namespace winnow {

Engine::Engine(const EngineOptions& options, ForwardPass& forward, BlockMemory& memory,
               const Tokenizer& tokenizer, EngineObserver& observer)
    : options_(options),
      vocab_(forward.vocab()),
      observer_(observer),
      core_(options, forward, memory, tokenizer, observer),
      mailbox_(options),
      thread_([this] { Loop(); }) {}

Engine::~Engine() {
  mailbox_.Stop();
  thread_.join();
}

absl::Status Engine::CheckOutline(const Request& outline) {
  absl::Status status = mailbox_.CheckOutline(outline, absl::Now());
  if (!status.ok()) observer_.OnRejected(status);
  return status;
}

absl::Status Engine::Submit(Request request, RequestSink* sink) {
  absl::Status status = CheckRequest(request, options_, vocab_);
  if (status.ok() && !healthy()) status = absl::UnavailableError("the device has failed");
  if (status.ok()) status = mailbox_.Submit(std::move(request), sink, absl::Now());
  if (!status.ok()) observer_.OnRejected(status);
  return status;
}

void Engine::Cancel(uint64_t request_id) { mailbox_.Cancel(request_id); }

void Engine::Wake() { mailbox_.Wake(); }

void Engine::Drain(absl::Duration limit) { mailbox_.Drain(absl::Now() + limit); }

bool Engine::drained() const { return drained_.load(std::memory_order_acquire); }

bool Engine::healthy() const { return healthy_.load(std::memory_order_acquire); }

Engine::Activity Engine::activity() const {
  std::lock_guard lock(activity_mutex_);
  Activity activity = activity_;
  activity.step = core_.step_tokens();
  return activity;
}

// Tells submitters, metrics and the watchdog what runs and waits.
void Engine::Publish() {
  const Load waiting = mailbox_.Publish(core_.load());
  EngineGauges gauges = core_.gauges();
  gauges.waiting_requests = static_cast<int>(waiting.requests);
  gauges.waiting_prompt_tokens = static_cast<int>(waiting.prompt_tokens);
  observer_.OnGauges(gauges);
  healthy_.store(core_.healthy(), std::memory_order_release);
  std::lock_guard lock(activity_mutex_);
  activity_.gauges = gauges;
}

void Engine::Loop() {
  bool busy =
      core_.Step([this] { Publish(); });  // computes nothing yet, but reports the empty pool
  bool draining = false;
  while (true) {
    Messages messages = mailbox_.Collect(busy ? absl::InfinitePast() : core_.NextDeadline());
    for (Submission& submission : messages.submissions) {
      core_.Submit(std::move(submission.request), submission.sink, submission.submitted);
    }
    for (const uint64_t id : messages.cancellations) core_.Cancel(id);
    if (messages.drain_until) {
      draining = true;
      core_.DrainUntil(*messages.drain_until);
    }
    if (messages.stop) {
      core_.EndAll(absl::CancelledError("the engine was stopped"));
      return;
    }
    {
      std::lock_guard lock(activity_mutex_);
      activity_.in_step = true;
      activity_.step_begin = absl::Now();
    }
    busy = core_.Step([this] { Publish(); });
    {
      std::lock_guard lock(activity_mutex_);
      activity_.in_step = false;
    }
    drained_.store(draining && core_.requests() == 0, std::memory_order_release);
  }
}

}  // namespace winnow

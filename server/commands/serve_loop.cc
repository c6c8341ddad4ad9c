#include "server/commands/serve_loop.h"

#include <pthread.h>
#include <unistd.h>

#include <string>

#include "absl/time/clock.h"
#include "server/observability/log.h"
#include "server/observability/log_thread.h"
#include "server/observability/watchdog.h"

namespace winnow {
namespace {

/// How often the main thread looks at the engine, and at files that may have changed.
constexpr absl::Duration kPollInterval = absl::Milliseconds(50);
constexpr absl::Duration kReloadInterval = absl::Seconds(1);
/// Time that a drained server gives to responses which are still on their way out.
constexpr absl::Duration kFlushLimit = absl::Seconds(2);
/// Time for those who watch a hung server's health, or read its log, to be told.
constexpr absl::Duration kHealthGrace = absl::Milliseconds(100);

absl::Duration StepTimeout(const ServeFlags& flags) {
  return flags.step_timeout_seconds > 0 ? absl::Seconds(flags.step_timeout_seconds)
                                        : absl::InfiniteDuration();
}

}  // namespace

Signals::Signals() {
  sigemptyset(&set_);
  sigaddset(&set_, SIGTERM);
  sigaddset(&set_, SIGINT);
  pthread_sigmask(SIG_BLOCK, &set_, nullptr);
}

bool Signals::Wait(absl::Duration limit) const {
  const timespec timeout = absl::ToTimespec(limit);
  return sigtimedwait(&set_, nullptr, &timeout) > 0;
}

absl::Status ServeLoop::Run() {
  while (!signals_.Wait(kPollInterval)) {
    if (absl::Status status = LookAfter(); !status.ok()) return status;
  }
  return Drain();
}

// What is to be done now and then as long as calls may come or run.
absl::Status ServeLoop::LookAfter() {
  if (absl::Status status = Watch(); !status.ok()) return status;
  const absl::Time now = absl::Now();
  context_.slow_readers.CutOff(absl::Seconds(flags_.slow_reader_seconds), now);
  if (now >= next_reload_) {
    ReloadTokens();
    next_reload_ = now + kReloadInterval;
  }
  return absl::OkStatus();
}

// Looks whether the engine gets on. If its device has failed, all requests have ended with
// UNAVAILABLE: the error is to end the server. If a step hangs, nothing can be waited for: the
// process ends here, and its clients get UNAVAILABLE because their connections break.
absl::Status ServeLoop::Watch() {
  absl::Status status = CheckEngine(context_.engine, StepTimeout(flags_), absl::Now());
  if (status.ok()) return status;
  Log(LogLevel::kError, "unhealthy", {{"reason", std::string(status.message())}});
  server_.SetServing(false);
  if (absl::IsDeadlineExceeded(status)) {
    absl::SleepFor(kHealthGrace);
    FlushLog(kHealthGrace);
    _exit(1);
  }
  server_.Shutdown(kFlushLimit);
  return status;
}

// Waits until `done`, as long as the engine gets on. A signal ends the process at once.
absl::Status ServeLoop::WaitUntil(const std::function<bool()>& done) {
  while (!done()) {
    if (absl::Status status = LookAfter(); !status.ok()) return status;
    if (!signals_.Wait(kPollInterval)) continue;
    Log(LogLevel::kWarning, "aborted", {{"reason", "second signal"}});
    FlushLog(kHealthGrace);
    _exit(1);
  }
  return absl::OkStatus();
}

absl::Status ServeLoop::Drain() {
  Log(LogLevel::kInfo, "draining",
      {{"lame_duck_seconds", flags_.lame_duck_seconds}, {"limit_seconds", flags_.drain_seconds}});
  server_.SetServing(false);
  if (flags_.server.reuse_port) server_.StopAccepting();
  const absl::Time refuse = absl::Now() + absl::Seconds(flags_.lame_duck_seconds);
  absl::Status status = WaitUntil([&] { return absl::Now() >= refuse; });
  if (!status.ok()) return status;
  context_.engine.Drain(absl::Seconds(flags_.drain_seconds));
  status = WaitUntil([&] { return context_.engine.drained(); });
  if (!status.ok()) return status;
  server_.Shutdown(kFlushLimit);
  Log(LogLevel::kInfo, "stopped");
  return absl::OkStatus();
}

void ServeLoop::ReloadTokens() {
  const absl::StatusOr<bool> changed = authenticator_.Reload();
  if (!changed.ok()) {
    Log(LogLevel::kError, "tokens_not_reloaded",
        {{"error", std::string(changed.status().message())},
         {"reason", "the tokens from before still hold"}});
  } else if (*changed) {
    Log(LogLevel::kInfo, "tokens_reloaded");
  }
}

}  // namespace winnow

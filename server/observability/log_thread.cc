#include "server/observability/log_thread.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "server/observability/log.h"

namespace winnow {
namespace {

/// Lines that wait to be written: some thousands.
constexpr size_t kBufferBytes = 1 << 20;
constexpr absl::Duration kFlushLimit = absl::Milliseconds(500);

std::mutex g_mutex;  // not an absl::Mutex, which ThreadSanitizer cannot see
std::shared_ptr<LogThread::Queue> g_queue ABSL_GUARDED_BY(g_mutex);

std::shared_ptr<LogThread::Queue> CurrentQueue() {
  const std::lock_guard lock(g_mutex);
  return g_queue;
}

/// Writes all of it, waiting for as long as it takes; gives up when stderr is closed.
void WriteAll(std::string_view text) {
  while (!text.empty()) {
    pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
    if (poll(&out, 1, -1) < 0 && errno == EINTR) continue;
    // A pipe that has room has room for this much, so that what is written to it is in one piece.
    const ssize_t written =
        write(STDERR_FILENO, text.data(), std::min<size_t>(text.size(), PIPE_BUF));
    if (written > 0) text.remove_prefix(static_cast<size_t>(written));
    if (written < 0 && errno != EINTR && errno != EAGAIN) return;
  }
}

}  // namespace

class LogThread::Queue {
 public:
  void Post(std::string line) {
    const std::lock_guard lock(mutex_);
    if (waiting_.size() + line.size() > kBufferBytes) {
      ++dropped_;
      return;
    }
    waiting_.append(line);
    changed_.notify_all();
  }

  void Stop() {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    changed_.notify_all();
  }

  void Flush(absl::Duration limit) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, absl::ToChronoNanoseconds(limit),
                      [this] { return waiting_.empty() && !writing_; });
  }

  void Loop() {
    sigset_t all;  // SIGPIPE, too: that nobody reads is no reason to end
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stop_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      std::string text = std::exchange(waiting_, {});
      if (dropped_ > 0) {  // first of what is written next, before it can be full again
        waiting_ = LogLine(LogLevel::kWarning, "log_lines_dropped",
                           {{"lines", std::exchange(dropped_, 0)}});
      }
      writing_ = true;
      lock.unlock();
      WriteAll(text);
      lock.lock();
      writing_ = false;
      changed_.notify_all();
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string waiting_ ABSL_GUARDED_BY(mutex_);
  int64_t dropped_ ABSL_GUARDED_BY(mutex_) = 0;  ///< lines, since `waiting_` was last taken
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
};

LogThread::LogThread() : queue_(std::make_shared<Queue>()) {
  // Detached, because nothing can end a write to a pipe that nobody reads.
  std::thread([queue = queue_] { queue->Loop(); }).detach();
  const std::lock_guard lock(g_mutex);
  g_queue = queue_;
}

LogThread::~LogThread() {
  {
    const std::lock_guard lock(g_mutex);
    g_queue = nullptr;
  }
  queue_->Stop();
  queue_->Flush(kFlushLimit);
}

void FlushLog(absl::Duration limit) {
  if (const auto queue = CurrentQueue(); queue != nullptr) queue->Flush(limit);
}

void WriteLogLine(std::string line) {
  if (const auto queue = CurrentQueue(); queue != nullptr) return queue->Post(std::move(line));
  // One call for the whole line, so that lines of several threads don't mix. There is nobody to
  // tell when stderr is closed.
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace winnow

#pragma once

#include <memory>
#include <string>

#include "absl/time/time.h"

namespace winnow {

/// While it exists, log lines are written by a thread of its own, in the order in which they came:
/// whoever logs never waits, even if nobody reads stderr's pipe. What does not fit into its buffer
/// is dropped, and said to be (`event=log_lines_dropped`) once there is room again. There may be
/// one at a time; without any, lines are written by who logs them.
class LogThread {
 public:
  LogThread();
  /// Flushes for a moment. What nobody reads is lost.
  ~LogThread();
  LogThread(const LogThread&) = delete;
  LogThread& operator=(const LogThread&) = delete;

  class Queue;

 private:
  const std::shared_ptr<Queue> queue_;  ///< shared with the thread, which may not be able to end
};

/// Waits until all lines so far are written, but no longer than `limit`: before the process ends
/// without destructors.
void FlushLog(absl::Duration limit);

/// Writes a line to stderr, or has the LogThread write it.
void WriteLogLine(std::string line);

}  // namespace winnow

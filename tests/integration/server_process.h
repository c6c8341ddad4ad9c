#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace winnow {

/// The path of the demo model, from the environment variable WINNOW_DEMO_MODEL. Ends the process
/// when it is not set: no test of this folder can go on without it.
std::string DemoModelPath();

/// What waits for a cause waits for so long, on a machine that does much else: what hangs fails a
/// test, not stops it.
inline constexpr absl::Duration kHangLimit = absl::Seconds(60);

/// Asks until it is so; false if it still isn't after kHangLimit. For what another process does,
/// which tells nobody when it has.
bool Becomes(const std::function<bool()>& condition);

/// A running program with its standard output and error going to a file.
class ChildProcess {
 public:
  /// Starts arguments[0] with `input` as its standard input.
  explicit ChildProcess(const std::vector<std::string>& arguments, const std::string& input = "");
  /// Kills the program if it is still running.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  /// What it has written so far.
  std::string Output() const;
  pid_t pid() const { return pid_; }
  /// The exit status once the program has ended, -N after signal N; nothing while it runs.
  std::optional<int> ExitStatus();
  /// The same once it has ended; nothing if it hangs.
  std::optional<int> Wait();

 private:
  std::string output_path_;
  pid_t pid_ = -1;
  std::optional<int> exit_status_;
};

/// What a command that ends by itself did.
struct CommandResult {
  std::optional<int> exit_status;  ///< as ChildProcess::Wait; nothing: it hangs
  std::string output;              ///< standard output and error
};

/// Runs a program to its end.
CommandResult RunCommand(const std::vector<std::string>& arguments, const std::string& input = "");

/// The command line of the binary under test with these arguments.
std::vector<std::string> WinnowCommand(const std::vector<std::string>& arguments);

/// Runs the binary under test with these arguments to its end.
CommandResult RunWinnow(const std::vector<std::string>& arguments);

/// `winnow serve` with the demo model on free ports of the loopback interface.
class ServerProcess {
 public:
  /// Starts the server, with more flags if wanted, and returns once it listens; an error holds what
  /// it wrote. `wrapper`: a command that starts the one which follows it.
  static absl::StatusOr<std::unique_ptr<ServerProcess>> Start(
      const std::vector<std::string>& flags = {}, const std::vector<std::string>& wrapper = {});

  const std::string& address() const { return address_; }
  /// From the start of the process to the log line which says that it listens.
  absl::Duration startup_time() const { return startup_time_; }

  /// The metrics page, as an HTTP client gets it; empty when there is no answer.
  std::string ScrapeMetrics() const;
  /// The value of one series, spelled as on the page: `name` or `name{label="value"}`. Nothing when
  /// the page doesn't have it.
  std::optional<double> Metric(const std::string& series) const;
  /// Waits until the series has the value; false if it never has.
  bool MetricBecomes(const std::string& series, double value) const;
  /// Waits until no request runs or waits and all KV blocks are free.
  bool BecomesIdle() const;

  /// Memory that the process holds now, and the most that it ever held.
  int64_t resident_bytes() const { return 1024 * StatusNumber("VmRSS:"); }
  int64_t peak_resident_bytes() const { return 1024 * StatusNumber("VmHWM:"); }
  int threads() const { return static_cast<int>(StatusNumber("Threads:")); }
  int open_descriptors() const;
  /// Names of the threads that do not block `signal`.
  std::vector<std::string> ThreadsOpenTo(int signal) const;

  void Terminate();  ///< SIGTERM
  /// See ChildProcess.
  std::optional<int> ExitStatus() { return process_.ExitStatus(); }
  std::optional<int> Wait() { return process_.Wait(); }
  std::string Log() const { return process_.Output(); }
  /// Waits until the log holds `text`; false if it never does. Lines may come later than what they
  /// tell of.
  bool Logs(std::string_view text) const;

 private:
  explicit ServerProcess(const std::vector<std::string>& arguments) : process_(arguments) {}

  /// The number behind a name in /proc/PID/status.
  int64_t StatusNumber(const std::string& name) const;

  ChildProcess process_;
  std::string address_;
  std::string metrics_address_;
  absl::Duration startup_time_;
};

/// The series of a metrics page with their values. An error names the first line that is neither a
/// comment nor a series with a number.
absl::StatusOr<std::map<std::string, double>> ParseMetrics(const std::string& page);

}  // namespace winnow

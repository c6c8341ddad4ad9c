#pragma once

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "tests/integration/client.h"

namespace winnow {

/// What well-behaved clients met with.
struct GoodReport {
  int answered = 0;                   ///< with the right text
  int retried = 0;                    ///< times that they were told to come again later, and did
  std::vector<std::string> failures;  ///< answers that were wrong or missing
  std::vector<double> ttft_seconds;   ///< of each answer, from the client's first try
  std::vector<double> total_seconds;
};

/// Clients that ask greedily, read what comes, and know what it has to be.
class GoodClients {
 public:
  explicit GoodClients(std::string address) : address_(std::move(address)) {}
  /// Stops the clients that run.
  ~GoodClients();

  /// Asks every prompt once, which the server has to be idle for: these answers are the right ones.
  /// False when there is none.
  bool Learn();
  /// Starts clients that ask one prompt after the other.
  void Start(int clients);
  /// Ends them once they have their answers; the report is of the time since Start.
  GoodReport Stop();

 private:
  void Run(size_t first_prompt);
  void Ask(v1::GenerationService::Stub& stub, size_t prompt);

  const std::string address_;
  std::vector<std::string> answers_;  ///< by prompt
  std::atomic<bool> stop_ = false;
  std::vector<std::thread> threads_;
  absl::Mutex mutex_;
  GoodReport report_ ABSL_GUARDED_BY(mutex_);
};

/// The share of the values that are at most the result, by the nearest rank; 0 without values.
double Quantile(std::vector<double> values, double share);

}  // namespace winnow

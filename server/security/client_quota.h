#pragma once

#include <cstdint>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace winnow {

/// What one client may take. 0: as much as the server has.
struct QuotaLimits {
  int requests = 0;               ///< at the same time
  int64_t tokens_per_minute = 0;  ///< prompt and generated tokens together
};

/// What one client has taken. Safe to use from several threads.
///
/// Tokens are a balance that starts at one minute's worth, its most, and grows evenly. A request is
/// admitted while there is some, before it costs anything to read; its prompt is charged once it is
/// known, and generated tokens when it has ended, since nobody knows before how many they will be:
/// so the balance may fall below zero, and the client then waits until it has paid off what it
/// owes. A request that never ran costs nothing.
class ClientQuota {
 public:
  explicit ClientQuota(const QuotaLimits& limits) : limits_(limits) {}

  /// The limits from now on; what was taken stays taken.
  void SetLimits(const QuotaLimits& limits);

  /// Why a request is refused.
  struct Refusal {
    bool too_many_requests = false;  ///< else too many tokens
    QuotaLimits limits;
    absl::Duration retry_after;  ///< when it is worth trying again
  };
  /// Admits one more request, or says why not. An admitted request must be ended.
  std::optional<Refusal> Begin(absl::Time now);
  /// Charges an admitted request's prompt, or says why not: others have taken what was left.
  std::optional<Refusal> Charge(int64_t prompt_tokens, absl::Time now);
  /// An admitted request is over and is charged so many tokens more: those that it generated, or,
  /// if it never ran, its prompt's, negative, which gives them back.
  void End(int64_t tokens, absl::Time now);

 private:
  std::optional<Refusal> CheckBalance(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Refill(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Mutex mutex_;
  QuotaLimits limits_ ABSL_GUARDED_BY(mutex_);
  int requests_ ABSL_GUARDED_BY(mutex_) = 0;
  /// Nothing until a limit has first been met; see the class comment.
  std::optional<double> balance_tokens_ ABSL_GUARDED_BY(mutex_);
  absl::Time refilled_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace winnow

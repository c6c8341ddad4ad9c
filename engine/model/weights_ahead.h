#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "engine/model/weight_source.h"

namespace winnow {

/// The weights of another source, which a thread of its own has made, or read from their files, by
/// the time they are asked for: one after another, as disks are fastest, while those before them
/// are on their way to a device.
class WeightsAhead : public WeightSource {
 public:
  /// Of mapped weights, so many bytes are read before they are asked for, and one weight more: the
  /// kernel should still have them then.
  static constexpr int64_t kReadBytes = int64_t{2} << 30;

  /// Begins at once. `names` are in the order in which they will be asked for. Weights that had to
  /// be made wait in memory until they take `room` bytes: so much, and one weight more.
  /// REQUIRES: the source has all of them, outlives this object and may be used by two threads.
  WeightsAhead(const WeightSource& source, std::vector<std::string> names,
               int64_t room = int64_t{256} << 20);
  ~WeightsAhead() override;

  /// Waits for the weight. Those that were to be asked for before it, and any other name, are then
  /// the source's own matter.
  HostWeight Weight(std::string_view name) const override;
  void ReleasePages() const override { source_.ReleasePages(); }

 private:
  void Run();
  void Touch(std::span<const std::byte> mapped) const;
  /// The bytes that are ready, of the kind that the weight is of.
  int64_t& ReadyBytes(const HostWeight& weight) const;
  HostWeight TakeNext(std::unique_lock<std::mutex>& lock) const;

  const WeightSource& source_;
  const std::vector<std::string> names_;
  const int64_t room_;
  // Not an absl::Mutex: ThreadSanitizer cannot see the conditions of a distribution's Abseil.
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  mutable size_t taken_ = 0;              ///< of the names
  mutable std::deque<HostWeight> ready_;  ///< those of the names that come next
  mutable int64_t made_bytes_ = 0;        ///< of those ready
  mutable int64_t read_bytes_ = 0;        ///< of those ready, the others
  std::atomic<bool> stopped_ = false;     ///< changed under the mutex
  std::thread thread_;                    ///< last: it uses all the others
};

}  // namespace winnow

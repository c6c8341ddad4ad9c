#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/engine_core.h"
#include "engine/engine_options.h"
#include "engine/mailbox.h"
#include "engine/model/forward_pass.h"
#include "engine/observer.h"
#include "engine/request.h"
#include "engine/text/tokenizer.h"

namespace winnow {

/// The engine thread and the mailbox in front of it. All methods may be called from any thread.
///
/// Life cycle: construct, Submit requests, Drain, wait for drained(), destroy. The destructor
/// cancels what is still running.
class Engine {
 public:
  /// REQUIRES: `forward`, `tokenizer` and `observer` outlive the engine.
  Engine(const EngineOptions& options, ForwardPass& forward, const Tokenizer& tokenizer,
         EngineObserver& observer);
  ~Engine();

  /// Queues a request. The engine calls `sink` until OnFinished, also when the request is
  /// cancelled; it must stay alive until then. Errors (sink never called): RESOURCE_EXHAUSTED when
  /// the queue is full, UNAVAILABLE while draining, INVALID_ARGUMENT when the prompt with
  /// max_tokens can never fit the KV pool.
  absl::Status Submit(Request request, RequestSink* sink);

  /// Ends a request within one step; its sink gets OnFinished with CANCELLED. Unknown ids are
  /// ignored (the request may have just finished).
  void Cancel(uint64_t request_id);

  /// A sink that had no room has some again.
  void Wake();

  /// Refuses new requests from now on. Running and queued ones finish, those still there after
  /// `limit` are ended with UNAVAILABLE.
  void Drain(absl::Duration limit);

  /// True once no request is left after Drain.
  bool drained() const;

  /// False when the device failed (then every request ends with UNAVAILABLE).
  bool healthy() const;

 private:
  void Loop();

  const EngineOptions options_;
  const int vocab_;
  EngineObserver& observer_;
  EngineCore core_;  ///< touched by the engine thread only
  Mailbox mailbox_;
  std::atomic<bool> drained_{false};
  std::atomic<bool> healthy_{true};
  std::thread thread_;  ///< last: it uses all the others
};

}  // namespace winnow

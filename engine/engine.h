#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/engine_core.h"
#include "engine/mailbox.h"
#include "engine/model/forward_pass.h"
#include "engine/observer.h"
#include "engine/request/engine_options.h"
#include "engine/request/request.h"
#include "engine/text/tokenizer.h"

namespace winnow {

/// The engine thread and the mailbox in front of it. All methods may be called from any thread.
///
/// Life cycle: construct, Submit requests, Drain, wait for drained(), destroy. The destructor
/// cancels what is still running.
class Engine {
 public:
  /// `memory` is that of the KV blocks which `forward` computes on. REQUIRES: all of them outlive
  /// the engine.
  Engine(const EngineOptions& options, ForwardPass& forward, BlockMemory& memory,
         const Tokenizer& tokenizer, EngineObserver& observer);
  ~Engine();

  /// What Submit would say, as far as that is known without the prompt: so that a server that is
  /// busy enough does not read prompts only to refuse them. Of `outline`, the priority, the client,
  /// the deadline, max_tokens and n count.
  absl::Status CheckOutline(const Request& outline);

  /// Queues a request. The engine calls `sink` until OnFinished, also when the request is
  /// cancelled; it must stay alive until then. Errors (sink never called): RESOURCE_EXHAUSTED when
  /// Admission refuses it (Refusal), UNAVAILABLE while draining, INVALID_ARGUMENT when the prompt
  /// with max_tokens can never fit the KV pool.
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

  /// What the engine thread is doing.
  struct Activity {
    bool in_step = false;
    absl::Time step_begin;
    EngineCore::StepTokens step;  ///< what it computes, or computed last
    EngineGauges gauges;          ///< after the step before
  };
  Activity activity() const;

 private:
  void Loop();
  void Publish();

  const EngineOptions options_;
  const int vocab_;
  EngineObserver& observer_;
  EngineCore core_;  ///< touched by the engine thread only
  Mailbox mailbox_;
  std::atomic<bool> drained_{false};
  std::atomic<bool> healthy_{true};
  mutable std::mutex activity_mutex_;
  Activity activity_ ABSL_GUARDED_BY(activity_mutex_);
  std::thread thread_;  ///< last: it uses all the others
};

}  // namespace winnow

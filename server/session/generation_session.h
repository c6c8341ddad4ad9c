#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/request/request.h"
#include "server/security/auth.h"
#include "server/security/credentials.h"
#include "server/session/call_status.h"
#include "server/session/session_context.h"
#include "server/session/slow_readers.h"
#include "server/session/stream.h"

namespace winnow {

/// What a front knows of a call besides its message.
struct IncomingCall {
  const char* method;  ///< such as "Generate": what metrics and logs call it
  Credentials credentials;
  absl::Time deadline = absl::InfiniteFuture();
  std::string traceparent;        ///< the header's value, if the call has exactly one
  SlowReaders::Abort abort = {};  ///< of a call that streams, in case its client stops reading
};

/// A front's side of one generation call: what its message asks for, and where the answer goes.
class GenerationFront {
 public:
  /// Reads the message's form, before anything else is asked of it, and returns what is wrong with
  /// that: then nothing else is asked.
  virtual std::vector<FieldViolation> Parse() = 0;
  /// The model that the message names.
  virtual std::string Model() const = 0;
  /// What Engine::CheckOutline looks at, taken from the message unchecked: out-of-range values
  /// count as the nearest possible ones.
  virtual Request Outline() const = 0;
  /// Bytes that Decode may have to tokenize.
  virtual size_t TextBytes() const = 0;
  /// Turns the message into the engine's form, without id, client and deadline, and returns all
  /// that is wrong with it; `request` is complete only if that is nothing. Returns soon once
  /// `cancelled` is set; then nothing of the result means anything. The message is not asked for
  /// anything afterwards.
  virtual std::vector<FieldViolation> Decode(const std::atomic<bool>& cancelled,
                                             Request* request) = 0;
  /// GenerationSession::Take has something after it had nothing, or for the first time.
  virtual void OnReady() = 0;

 protected:
  ~GenerationFront() = default;
};

/// One generation call from who makes it to its line in the log, free of any protocol's types: the
/// client's identity, the message's form, the model's name, whether the engine has room, the
/// client's quota, the message's checks; then the engine's stream of outputs, cancellation, and the
/// record of how the call ended.
///
/// The front owns the session, starts it once, takes batches until one has an end, and may destroy
/// it then.
///
/// Threads: Start runs in the front's; Decode, the first OnReady and what comes between them there,
/// too, or, for a long text, in a thread of TextPool. Take and OnWriteDone run in one thread at a
/// time, one of these, the front's or the delivery thread, because the stream hands its contents to
/// one taker. Cancel may run beside all of them.
class GenerationSession {
 public:
  /// What has come since the last one.
  struct Batch {
    std::vector<Output> outputs;            ///< in order; none only if there is an end
    std::optional<CallStatus> end;          ///< the call is over, and ends like this
    std::optional<RequestSummary> summary;  ///< with an end that is OK: what the request used
  };

  /// REQUIRES: `context` and `front` outlive the session.
  GenerationSession(SessionContext& context, IncomingCall call, GenerationFront& front);
  ~GenerationSession();
  GenerationSession(const GenerationSession&) = delete;
  GenerationSession& operator=(const GenerationSession&) = delete;

  /// Checks the call and hands its request to the engine, or refuses it. Calls the front's OnReady
  /// once it has, perhaps before it returns; the session may be gone then.
  void Start();

  /// All that is there, or nothing; then OnReady will be called once there is.
  std::optional<Batch> Take();

  /// The outputs of the last batch have been written, or, if not `ok`, never will be, nor any
  /// other: the client is gone.
  void OnWriteDone(bool ok);

  /// Ends the request soon; the end still comes through Take.
  void Cancel();

  /// The same by the front itself, which says why. To be called where Take may be.
  void GiveUp(absl::Status reason);

 private:
  void Decode();
  absl::Status Cancelled() const;
  CallStatus Ended(const RequestSummary& summary);
  void EndQuota(int64_t tokens);
  void RefuseOverQuota(const ClientQuota::Refusal& refusal);
  void RefuseInvalid(std::vector<FieldViolation> violations);
  void Refuse(CallStatus end, const std::string& reason);

  SessionContext& context_;
  const IncomingCall call_;
  GenerationFront& front_;
  const absl::Time started_ = absl::Now();
  Client client_;
  std::optional<std::string> trace_id_;
  std::optional<std::string> span_id_;  ///< the caller's
  const uint64_t request_id_;
  std::atomic<bool> cancelled_ = false;
  absl::Status given_up_;       ///< why the front has, if it has
  bool has_quota_ = false;      ///< the client's quota counts the call
  int64_t charged_tokens_ = 0;  ///< to it, for the prompt
  int unfinished_ = 0;  ///< continuations that have neither stopped nor reached their length
  std::optional<SlowReaders::Watch> writes_;  ///< of a call that streams
  std::optional<CallStatus> refusal_;         ///< until it is taken
  std::optional<RequestStream> stream_;       ///< once the engine may have the request
};

}  // namespace winnow

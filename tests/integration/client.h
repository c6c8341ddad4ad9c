#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "google/rpc/error_details.pb.h"
#include "winnow/v1/generation.grpc.pb.h"

namespace winnow {

/// One continuation, joined from the messages of a stream or taken from a unary answer.
struct Continuation {
  std::string text;
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;  ///< of the chosen tokens, if they were asked for
  std::vector<int> tops;        ///< number of alternatives at each position
  v1::FinishReason finish_reason = v1::FINISH_REASON_UNSPECIFIED;
  std::string matched_stop;
};

bool operator==(const Continuation& a, const Continuation& b);
std::ostream& operator<<(std::ostream& out, const Continuation& continuation);

/// What a call returned in the end.
struct Generation {
  grpc::Status status;
  std::vector<Continuation> continuations;  ///< [n]
  v1::Summary summary;
  int messages = 0;

  /// Adds what a message brings.
  void Append(const v1::GenerateResponse& response);
  /// Tokens so far, over all continuations.
  int tokens() const;
};

/// The deadline of calls that should not expire: a server that hangs fails a test, not stops it.
inline constexpr absl::Duration kCallLimit = absl::Seconds(240);

/// A streaming call under way.
class Stream {
 public:
  /// Starts the call. `deadline` is that of the call.
  Stream(v1::GenerationService::Stub& stub, const v1::GenerateRequest& request,
         absl::Duration deadline = kCallLimit);

  /// Reads messages until there are at least `tokens` tokens; false if the stream ends before.
  bool ReadTokens(int tokens);
  /// Reads to the end.
  const Generation& Finish();
  void Cancel() { call_.TryCancel(); }
  const Generation& generation() const { return generation_; }

 private:
  grpc::ClientContext call_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader_;
  Generation generation_;
};

/// A connection of its own to the server, with flow control windows that don't grow: a reader that
/// stops lets about 64 KiB come and no more. All calls bring the bearer token, if there is one.
std::shared_ptr<grpc::Channel> Connect(const std::string& address, const std::string& token = "");

/// A greedy request for exactly `max_tokens` tokens.
v1::GenerateRequest Greedy(const std::string& text, int max_tokens);
/// The same for eight continuations with 20 alternatives for each token. From about 100 tokens of
/// each on, that is far more than flow control lets through to a client that doesn't read: such a
/// request goes on for as long as its client wants, however fast the machine is.
v1::GenerateRequest Wide(const std::string& text, int max_tokens);
/// Greedy with one user's message.
v1::GenerateRequest GreedyChat(const std::string& message, int max_tokens);

/// The whole of a streaming call, and of a unary one.
Generation Generate(v1::GenerationService::Stub& stub, const v1::GenerateRequest& request);
Generation Complete(v1::GenerationService::Stub& stub, const v1::GenerateRequest& request);

/// The fields that the status's BadRequest detail names; empty if it has none.
std::vector<std::string> ViolatedFields(const grpc::Status& status);
/// The delay of the status's RetryInfo detail; zero if it has none.
absl::Duration RetryDelay(const grpc::Status& status);

}  // namespace winnow

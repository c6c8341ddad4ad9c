#include "tests/integration/client.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/support/client_interceptor.h>

#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "google/rpc/status.pb.h"

namespace winnow {
namespace {

/// Adds a bearer token to calls. Call credentials would do, but gRPC takes none without TLS.
class BearerTokens : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  explicit BearerTokens(std::string token) : value_("Bearer " + token) {}

  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo*) override {
    return new Adder(value_);  // gRPC's from then on
  }

 private:
  class Adder : public grpc::experimental::Interceptor {
   public:
    explicit Adder(const std::string& value) : value_(value) {}

    void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
      using grpc::experimental::InterceptionHookPoints;
      if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
        methods->GetSendInitialMetadata()->insert({"authorization", value_});
      }
      methods->Proceed();
    }

   private:
    const std::string value_;
  };

  const std::string value_;
};

/// The status's detail of the type of `detail`.
bool FindDetail(const grpc::Status& status, google::protobuf::Message* detail) {
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return false;
  for (const google::protobuf::Any& any : details.details()) {
    if (any.UnpackTo(detail)) return true;
  }
  return false;
}

}  // namespace

bool operator==(const Continuation& a, const Continuation& b) {
  return a.text == b.text && a.tokens == b.tokens && a.logprobs == b.logprobs &&
         a.finish_reason == b.finish_reason && a.matched_stop == b.matched_stop;
}

std::ostream& operator<<(std::ostream& out, const Continuation& continuation) {
  return out << '"' << continuation.text << "\" [" << absl::StrJoin(continuation.tokens, " ")
             << "] " << v1::FinishReason_Name(continuation.finish_reason);
}

void Generation::Append(const v1::GenerateResponse& response) {
  ++messages;
  for (const v1::Output& output : response.outputs()) {
    const auto index = static_cast<size_t>(output.index());
    if (continuations.size() <= index) continuations.resize(index + 1);
    Continuation& continuation = continuations[index];
    continuation.text += output.text();
    continuation.tokens.insert(continuation.tokens.end(), output.token_ids().begin(),
                               output.token_ids().end());
    for (const v1::TokenLogprobs& logprobs : output.logprobs()) {
      continuation.logprobs.push_back(logprobs.chosen().logprob());
      continuation.tops.push_back(logprobs.top_size());
    }
    continuation.finish_reason = output.finish_reason();
    continuation.matched_stop = output.matched_stop();
  }
  if (response.has_summary()) summary = response.summary();
}

int Generation::tokens() const {
  size_t count = 0;
  for (const Continuation& continuation : continuations) count += continuation.tokens.size();
  return static_cast<int>(count);
}

Stream::Stream(v1::GenerationService::Stub& stub, const v1::GenerateRequest& request,
               absl::Duration deadline) {
  call_.set_deadline(absl::ToChronoTime(absl::Now() + deadline));
  reader_ = stub.Generate(&call_, request);
}

bool Stream::ReadTokens(int tokens) {
  v1::GenerateResponse response;
  while (generation_.tokens() < tokens) {
    if (!reader_->Read(&response)) return false;
    generation_.Append(response);
  }
  return true;
}

const Generation& Stream::Finish() {
  v1::GenerateResponse response;
  while (reader_->Read(&response)) generation_.Append(response);
  generation_.status = reader_->Finish();
  return generation_;
}

namespace {

std::shared_ptr<grpc::Channel> NewChannel(const std::string& address, const std::string& token) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> interceptors;
  if (!token.empty()) interceptors.push_back(std::make_unique<BearerTokens>(token));
  return grpc::experimental::CreateCustomChannelWithInterceptors(
      address, grpc::InsecureChannelCredentials(), arguments, std::move(interceptors));
}

bool BecomesReady(grpc::Channel& channel) {
  const auto limit = absl::ToChronoTime(absl::Now() + kCallLimit);
  while (true) {
    const grpc_connectivity_state state = channel.GetState(/*try_to_connect=*/true);
    if (state == GRPC_CHANNEL_READY) return true;
    if (state == GRPC_CHANNEL_TRANSIENT_FAILURE) return false;
    if (!channel.WaitForStateChange(state, limit)) return false;
  }
}

}  // namespace

// gRPC 1.51 reads errno some calls after connect: what these leave there ("No such file or
// directory", once in CI) fails a connection that is under way.
std::shared_ptr<grpc::Channel> Connect(const std::string& address, const std::string& token) {
  std::shared_ptr<grpc::Channel> channel = NewChannel(address, token);
  for (int again = 0; again < 3 && !BecomesReady(*channel); ++again) {
    channel = NewChannel(address, token);
  }
  return channel;
}

v1::GenerateRequest Greedy(const std::string& text, int max_tokens) {
  v1::GenerateRequest request;
  request.set_text(text);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stop()->set_max_tokens(max_tokens);
  request.mutable_stop()->set_ignore_eos(true);
  return request;
}

v1::GenerateRequest Wide(const std::string& text, int max_tokens) {
  v1::GenerateRequest request = Greedy(text, max_tokens);
  request.set_n(8);
  request.set_logprobs(true);
  request.set_top_logprobs(20);
  return request;
}

v1::GenerateRequest GreedyChat(const std::string& message, int max_tokens) {
  v1::GenerateRequest request = Greedy("", max_tokens);
  v1::ChatMessage* user = request.mutable_chat()->add_messages();
  user->set_role("user");
  user->set_content(message);
  return request;
}

Generation Generate(v1::GenerationService::Stub& stub, const v1::GenerateRequest& request) {
  return Stream(stub, request).Finish();
}

Generation Complete(v1::GenerationService::Stub& stub, const v1::GenerateRequest& request) {
  grpc::ClientContext call;
  call.set_deadline(absl::ToChronoTime(absl::Now() + kCallLimit));
  v1::GenerateResponse response;
  Generation generation;
  generation.status = stub.Complete(&call, request, &response);
  if (generation.status.ok()) generation.Append(response);
  return generation;
}

std::vector<std::string> ViolatedFields(const grpc::Status& status) {
  google::rpc::BadRequest bad_request;
  std::vector<std::string> fields;
  if (!FindDetail(status, &bad_request)) return fields;
  for (const auto& violation : bad_request.field_violations()) fields.push_back(violation.field());
  return fields;
}

absl::Duration RetryDelay(const grpc::Status& status) {
  google::rpc::RetryInfo retry;
  if (!FindDetail(status, &retry)) return absl::ZeroDuration();
  return absl::Seconds(retry.retry_delay().seconds()) +
         absl::Nanoseconds(retry.retry_delay().nanos());
}

}  // namespace winnow

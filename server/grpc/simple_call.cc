#include "server/grpc/simple_call.h"

#include <utility>

#include "server/grpc/call_context.h"
#include "server/grpc/status_mapping.h"

namespace winnow {
namespace {

/// Lives from the call's start to its OnDone.
class Reactor final : public grpc::ServerUnaryReactor {
 public:
  Reactor(SessionContext& context, SimpleCall call) : context_(context), call_(std::move(call)) {}

  void Start(const Credentials& credentials) {
    const absl::StatusOr<Client> client = context_.authenticator.Authenticate(credentials);
    if (!client.ok()) return End(EndOf(client.status()));
    if (absl::Status status = CheckModelName(call_.model, context_.model); !status.ok()) {
      return End(EndOf(status));
    }
    if (!context_.texts.Run(client->identity, call_.text_bytes, [this] { Work(); })) {
      End(TooMuchText());
    }
  }

  void OnCancel() override { cancelled_ = true; }
  void OnDone() override { delete this; }

 private:
  void Work() {
    const CallStatus end = call_.work(cancelled_);
    End(cancelled_ ? EndOf(absl::CancelledError("the call was cancelled")) : end);
  }

  void End(const CallStatus& end) {
    context_.metrics.OnCall(call_.method, absl::StatusCodeToString(end.status.code()));
    Finish(ToGrpcStatus(end));
  }

  SessionContext& context_;
  const SimpleCall call_;
  std::atomic<bool> cancelled_ = false;
};

}  // namespace

grpc::ServerUnaryReactor* StartSimpleCall(SessionContext& context,
                                          grpc::CallbackServerContext& transport, SimpleCall call) {
  auto* reactor = new Reactor(context, std::move(call));
  reactor->Start(CredentialsOf(transport));
  return reactor;
}

}  // namespace winnow

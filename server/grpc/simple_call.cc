#include "server/grpc/simple_call.h"

#include <utility>

#include "server/grpc/call_context.h"
#include "server/grpc/message.h"
#include "server/grpc/status_mapping.h"

namespace winnow {

grpc::ServerUnaryReactor* SimpleCall::Start(const grpc::CallbackServerContext& transport) {
  const absl::StatusOr<Client> client =
      context_.authenticator.Authenticate(CredentialsOf(transport));
  if (!client.ok()) {
    End(EndOf(client.status()));
  } else if (std::vector<FieldViolation> violations = ParseMessage(bytes_, &Request());
             !violations.empty()) {
    End(Invalid(std::move(violations)));
  } else if (absl::Status status = CheckModelName(ModelName(), context_.model); !status.ok()) {
    End(EndOf(status));
  } else if (!context_.texts.Run(client->identity, TextBytes(), [this] { Work(); })) {
    End(TooMuchText());
  }
  return this;
}

void SimpleCall::Work() {
  std::vector<FieldViolation> violations = Answer(cancelled_);
  if (cancelled_) return End(EndOf(absl::CancelledError("the call was cancelled")));
  if (!violations.empty()) return End(Invalid(std::move(violations)));
  answer_ = SerializeMessage(Response());
  End(EndOf(absl::OkStatus()));
}

void SimpleCall::End(const CallStatus& end) {
  context_.metrics.OnCall(method_, absl::StatusCodeToString(end.status.code()));
  Finish(ToGrpcStatus(end));
}

}  // namespace winnow

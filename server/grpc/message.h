#pragma once

#include <vector>

#include "google/protobuf/message.h"
#include "grpcpp/support/byte_buffer.h"
#include "server/session/call_status.h"

namespace winnow {

// Messages are read and written here and not by gRPC's generated code, which ends a call whose
// message it can't read with UNIMPLEMENTED and no word, and counts it nowhere.

/// Reads a message; what is wrong with its form, if anything: it is missing, no protocol buffer, or
/// a text in it is not UTF-8.
std::vector<FieldViolation> ParseMessage(const grpc::ByteBuffer& bytes,
                                         google::protobuf::Message* message);

grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message);

/// Has what the protocol buffers' library says go to the log.
void LogProtobufMessages();

}  // namespace winnow

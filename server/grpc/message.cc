#include "server/grpc/message.h"

#include <map>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/stubs/logging.h"
#include "google/protobuf/unknown_field_set.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "grpcpp/support/proto_buffer_reader.h"
#include "server/base/utf8.h"
#include "server/observability/log.h"

namespace winnow {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::UnknownField;

void LogFromProtobuf(google::protobuf::LogLevel level, const char* file, int line,
                     const std::string& message) {
  // What is worth more than a note, such as a text that is not UTF-8, the caller is told.
  Log(level == google::protobuf::LOGLEVEL_FATAL ? LogLevel::kError : LogLevel::kDebug, "protobuf",
      {{"file", file}, {"line", line}, {"message", message}});
}

std::string Flattened(const grpc::ByteBuffer& bytes) {
  std::vector<grpc::Slice> slices;
  std::string text;
  if (!bytes.Dump(&slices).ok()) return text;
  for (const grpc::Slice& slice : slices) {
    text.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return text;
}

/// The path of the first text that is not UTF-8 in a message of the type, such as
/// "chat.messages[2].content". Reads as little into the bytes as that takes.
std::optional<std::string> FindBadText(const std::string& bytes,
                                       const google::protobuf::Descriptor& type) {
  google::protobuf::UnknownFieldSet fields;
  if (!fields.ParseFromString(bytes)) return std::nullopt;
  std::map<int, int> counts;  // of repeated fields so far
  for (int i = 0; i < fields.field_count(); ++i) {
    const UnknownField& field = fields.field(i);
    const FieldDescriptor* known = type.FindFieldByNumber(field.number());
    if (known == nullptr || field.type() != UnknownField::TYPE_LENGTH_DELIMITED) continue;
    std::string name = known->name();
    if (known->is_repeated()) absl::StrAppend(&name, "[", counts[field.number()]++, "]");
    if (known->type() == FieldDescriptor::TYPE_STRING && !IsUtf8(field.length_delimited())) {
      return name;
    }
    if (known->type() != FieldDescriptor::TYPE_MESSAGE) continue;
    if (const auto inner = FindBadText(field.length_delimited(), *known->message_type())) {
      return absl::StrCat(name, ".", *inner);
    }
  }
  return std::nullopt;
}

}  // namespace

std::vector<FieldViolation> ParseMessage(const grpc::ByteBuffer& bytes,
                                         google::protobuf::Message* message) {
  if (!bytes.Valid()) return {{"message", "is missing: the call must bring one"}};
  grpc::ByteBuffer input = bytes;  // shares the bytes; reading empties it
  grpc::ProtoBufferReader reader(&input);
  if (reader.status().ok() && message->ParseFromZeroCopyStream(&reader)) return {};
  const google::protobuf::Descriptor& type = *message->GetDescriptor();
  if (const auto field = FindBadText(Flattened(bytes), type)) return {{*field, "must be UTF-8"}};
  return {{"message", absl::StrCat("must be a ", type.full_name(), ", a protocol buffer")}};
}

grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message) {
  grpc::ByteBuffer bytes;
  bool own = false;  // always true then
  grpc::SerializationTraits<google::protobuf::Message>::Serialize(message, &bytes, &own);
  return bytes;
}

void LogProtobufMessages() { google::protobuf::SetLogHandler(LogFromProtobuf); }

}  // namespace winnow

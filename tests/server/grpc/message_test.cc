#include "server/grpc/message.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "winnow/v1/generation.pb.h"

namespace winnow {
namespace {

grpc::ByteBuffer Bytes(const std::string& text) {
  // In two slices, as they may come.
  const grpc::Slice slices[] = {grpc::Slice(text.substr(0, 3)),
                                grpc::Slice(text.substr(std::min<size_t>(3, text.size())))};
  return grpc::ByteBuffer(slices, 2);
}

/// The bytes of a message whose texts spell BAD where they should not be UTF-8.
std::string Spoiled(const v1::GenerateRequest& message) {
  std::string bytes = message.SerializeAsString();
  const size_t at = bytes.find("BAD");
  EXPECT_NE(at, std::string::npos);
  return bytes.replace(at, 3,
                       "\xE9"
                       "AD");
}

std::vector<FieldViolation> Parse(const std::string& bytes) {
  v1::GenerateRequest message;
  return ParseMessage(Bytes(bytes), &message);
}

TEST(MessageTest, WhatIsWrittenIsReadBack) {
  v1::GenerateRequest message, read;
  message.set_text(std::string(100'000, 'x'));
  message.set_n(3);
  EXPECT_TRUE(ParseMessage(SerializeMessage(message), &read).empty());
  EXPECT_EQ(read.SerializeAsString(), message.SerializeAsString());
  EXPECT_TRUE(ParseMessage(SerializeMessage(v1::GenerateRequest()), &read).empty());
  EXPECT_TRUE(Parse("").empty()) << "a message without fields";
}

TEST(MessageTest, NamesTheTextThatIsNotUtf8) {
  v1::GenerateRequest text, role, content, stop;
  text.set_text("BAD");
  for (int i = 0; i < 3; ++i) content.mutable_chat()->add_messages()->set_content("fine");
  content.mutable_chat()->mutable_messages(2)->set_content("is BAD");
  stop.mutable_stop()->add_strings("fine");
  stop.mutable_stop()->add_strings("BAD");
  role.mutable_chat()->add_messages()->set_role("BAD");
  for (const auto& [message, field] : {std::pair(&text, "text"),
                                       {&content, "chat.messages[2].content"},
                                       {&stop, "stop.strings[1]"},
                                       {&role, "chat.messages[0].role"}}) {
    const std::vector<FieldViolation> violations = Parse(Spoiled(*message));
    ASSERT_EQ(violations.size(), 1u);
    EXPECT_EQ(violations[0].field, field);
    EXPECT_EQ(violations[0].description, "must be UTF-8");
  }
  EXPECT_EQ(Parse("\x12\x02\xff\xfe").at(0).field, "text");
}

TEST(MessageTest, SaysWhenThereIsNoMessage) {
  v1::GenerateRequest message;
  EXPECT_EQ(ParseMessage(grpc::ByteBuffer(), &message).at(0).description,
            "is missing: the call must bring one");
  for (const char* bytes : {"\x12\x7f", "\xff\xff\xff", "\x12", "hello"}) {
    const std::vector<FieldViolation> violations = Parse(bytes);
    ASSERT_EQ(violations.size(), 1u) << bytes;
    EXPECT_EQ(violations[0].field, "message");
    EXPECT_EQ(violations[0].description, "must be a winnow.v1.GenerateRequest, a protocol buffer");
  }
}

}  // namespace
}  // namespace winnow

#pragma once

#include <cstddef>

#include "engine/text/chat_template.h"
#include "server/grpc/field_checker.h"
#include "winnow/v1/generation.pb.h"

namespace winnow {

/// Most functions, template arguments and calls of one message, and bytes of names and ids.
constexpr int kMaxTools = 128;
constexpr int kMaxTemplateArguments = 64;
constexpr int kMaxToolCalls = 128;
constexpr size_t kMaxNameBytes = 256;

/// Bytes of text that are to be rendered.
size_t TextBytes(const v1::ChatMessages& chat);

/// The conversation that a message holds, and all that is wrong with its fields.
Conversation ReadConversation(const v1::ChatMessages& chat, Checker& checker);

}  // namespace winnow

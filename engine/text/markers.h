#pragma once

#include <string_view>

#include "engine/text/vocabulary.h"

namespace winnow {

/// Whether a spelling is known to end a turn or a text, such as "<|im_end|>" or "</s>".
bool IsTurnEnd(std::string_view spelling);

/// Finds the user-defined tokens that give conversations their structure, and types them kMarker:
/// those that look like it ("<|im_start|>", "<｜User｜>", turn ends), and those in brackets that
/// the model's chat template (Jinja) writes, such as "<start_of_turn>" or "[INST]". Others, such as
/// runs of spaces, stay what they are.
void TypeMarkers(std::string_view chat_template, Vocabulary& vocabulary);

}  // namespace winnow

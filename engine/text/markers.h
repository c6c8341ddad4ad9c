#pragma once

#include <string_view>

#include "engine/text/vocabulary.h"

namespace winnow {

/// Whether a spelling is known to end a turn or a text, such as "<|im_end|>" or "</s>".
bool IsTurnEnd(std::string_view spelling);

/// Finds the tokens that give conversations their structure, whatever the file types them as: those
/// that look like it ("<|im_start|>", "<｜User｜>", turn ends), and those in brackets that the
/// model's chat templates (Jinja) write, such as "<start_of_turn>" or "[INST]".
///
/// User-defined ones become kMarker; others, such as runs of spaces, stay what they are.
///
/// Normal ones become kControl, and `vocabulary.recognised` holds them: text never becomes them, so
/// the template's own would be cut into pieces, and no turn would end. They must look like it from
/// end to end, or stand in "<" and ">" and be written by a template or named by the file as the
/// beginning or end of a sequence. What merges make is text.
///
/// REQUIRES: all else in `vocabulary` has been read, but for end_of_generation.
void TypeMarkers(std::string_view chat_templates, Vocabulary& vocabulary);

}  // namespace winnow

#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "engine/text/vocabulary.h"

namespace winnow {

/// Reads a tokenizer.json of Hugging Face's tokenizers library: models BPE and Unigram, with the
/// steps that tokenizer_json_steps.h lists. What its post-processor puts in front of a single text
/// is the vocabulary's prefix; what it would put behind is left out, since a text that is served is
/// continued. Special tokens are control tokens, other added ones user-defined; ids that nothing
/// has are unused tokens. Beginning, end and markers of conversations are not known from this file.
///
/// INVALID_ARGUMENT with one sentence that names the key at fault, UNIMPLEMENTED with one that
/// names what the file asks for beyond this.
absl::StatusOr<Vocabulary> ReadTokenizerJson(std::string_view json);

}  // namespace winnow

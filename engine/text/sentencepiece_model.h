#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "engine/text/vocabulary.h"

namespace winnow {

/// Reads a tokenizer.model: a ModelProto of SentencePiece (its sentencepiece_model.proto), of the
/// types BPE and UNIGRAM, whose normaliser changes nothing but spaces. A text gets the BOS token in
/// front, if there is one. Markers of conversations are not known from this file.
///
/// INVALID_ARGUMENT with one sentence that names what is wrong, UNIMPLEMENTED with one that names
/// what the file asks for beyond this.
absl::StatusOr<Vocabulary> ReadSentencePieceModel(std::string_view bytes);

}  // namespace winnow

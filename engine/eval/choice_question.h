#pragma once

#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/eval/choice.h"
#include "engine/text/tokenizer.h"

namespace winnow {

/// A question of a multiple-choice test.
struct ChoiceQuestion {
  std::string question;
  std::vector<std::string> choices;  ///< 2 to 26, none empty
  int answer = 0;                    ///< which of them is right
};

/// Reads questions as MMLU has them: CSV without a header, a record for each with the question,
/// the choices and the letter of the right one; fields may stand in double quotes, and then hold
/// commas, line ends and doubled quotes. INVALID_ARGUMENT names the record at fault.
absl::StatusOr<std::vector<ChoiceQuestion>> ParseChoiceCsv(const std::string& text);

/// Reads questions of which each line is a JSON object: a string `question`, strings `choices`, and
/// `answer`, which of them is right, as a number from 0 or as a letter from A. INVALID_ARGUMENT
/// names the line at fault.
absl::StatusOr<std::vector<ChoiceQuestion>> ParseChoiceJsonLines(const std::string& text);

/// How the model is asked.
struct ChoicePrompt {
  /// The choices are listed in the prompt and their letters may follow it, as in MMLU; otherwise
  /// the choices themselves may follow the question.
  bool letters = true;
  std::string preamble = {};                   ///< a line in front of everything; empty: none
  std::span<const ChoiceQuestion> shots = {};  ///< in front of the question, with their answers
};

/// The question as tokens.
ChoiceCase EncodeChoice(const ChoiceQuestion& question, const ChoicePrompt& prompt,
                        const Tokenizer& tokenizer);

}  // namespace winnow

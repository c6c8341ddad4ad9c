#include "engine/eval/choice_question.h"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace winnow {
namespace {

constexpr size_t kMinChoices = 2;
constexpr size_t kMaxChoices = 26;

// The records of a CSV text, each with at least one field; empty lines are none. No value where
// quotes are left open or text follows closing ones.
std::optional<std::vector<std::vector<std::string>>> SplitCsv(std::string_view text) {
  std::vector<std::vector<std::string>> records;
  std::vector<std::string> record;
  size_t i = 0;
  while (i < text.size()) {
    std::string field;
    if (text[i] == '"') {
      for (++i;; ++i) {
        if (i == text.size()) return std::nullopt;
        if (text[i] == '"' && (i + 1 == text.size() || text[i + 1] != '"')) break;
        if (text[i] == '"') ++i;  // a quote, doubled
        field += text[i];
      }
      ++i;
    } else {
      const size_t end = std::min(text.find_first_of(",\r\n", i), text.size());
      field = text.substr(i, end - i);
      i = end;
    }
    if (i < text.size() && text[i] != ',' && text[i] != '\r' && text[i] != '\n') {
      return std::nullopt;
    }
    record.push_back(std::move(field));
    if (i < text.size() && text[i] == ',') {
      ++i;
      if (i < text.size() && text[i] != '\r' && text[i] != '\n') continue;
      record.emplace_back();  // behind the last comma
    }
    while (i < text.size() && (text[i] == '\r' || text[i] == '\n')) ++i;
    records.push_back(std::exchange(record, {}));
  }
  return records;
}

// The choice that a letter stands for, from A; -1 for anything else.
int ChoiceOfLetter(std::string_view letter) {
  return letter.size() == 1 && absl::ascii_isupper(letter[0]) ? letter[0] - 'A' : -1;
}

std::string LetterOfChoice(size_t choice) {
  return std::string(1, static_cast<char>('A' + choice));
}

// Whether the parts are such as the header promises.
bool IsValid(const ChoiceQuestion& question) {
  const size_t count = question.choices.size();
  return count >= kMinChoices && count <= kMaxChoices && question.answer >= 0 &&
         question.answer < static_cast<int>(count) &&
         std::ranges::none_of(question.choices, &std::string::empty);
}

std::optional<ChoiceQuestion> FromJson(const nlohmann::json& json) {
  if (!json.is_object()) return std::nullopt;
  const auto question = json.find("question");
  const auto choices = json.find("choices");
  const auto answer = json.find("answer");
  if (question == json.end() || !question->is_string() || choices == json.end() ||
      !choices->is_array() || answer == json.end()) {
    return std::nullopt;
  }
  ChoiceQuestion result;
  result.question = question->get<std::string>();
  for (const nlohmann::json& choice : *choices) {
    if (!choice.is_string()) return std::nullopt;
    result.choices.push_back(choice.get<std::string>());
  }
  if (answer->is_string()) {
    result.answer = ChoiceOfLetter(answer->get<std::string>());
  } else if (answer->is_number_unsigned() && answer->get<uint64_t>() < kMaxChoices) {
    result.answer = answer->get<int>();
  } else {
    return std::nullopt;
  }
  return IsValid(result) ? std::optional(std::move(result)) : std::nullopt;
}

std::string QuestionText(const ChoiceQuestion& question, bool letters) {
  if (!letters) return absl::StrCat("Question: ", question.question, "\nAnswer:");
  std::string text = question.question;
  for (size_t i = 0; i < question.choices.size(); ++i) {
    absl::StrAppend(&text, "\n", LetterOfChoice(i), ". ", question.choices[i]);
  }
  return absl::StrCat(text, "\nAnswer:");
}

// What follows the question's text if choice i is taken.
std::string ChoiceText(const ChoiceQuestion& question, size_t i, bool letters) {
  return absl::StrCat(" ", letters ? LetterOfChoice(i) : question.choices[i]);
}

// Characters of a UTF-8 text: bytes that continue none.
int Characters(std::string_view text) {
  return static_cast<int>(std::ranges::count_if(
      text, [](char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; }));
}

}  // namespace

absl::StatusOr<std::vector<ChoiceQuestion>> ParseChoiceCsv(const std::string& text) {
  const auto records = SplitCsv(text);
  if (!records) {
    return absl::InvalidArgumentError("no CSV: a quoted field does not end, or text follows it");
  }
  std::vector<ChoiceQuestion> questions;
  for (const std::vector<std::string>& record : *records) {
    ChoiceQuestion question;
    if (record.size() >= 2 + kMinChoices) {
      question = {.question = record.front(),
                  .choices = {record.begin() + 1, record.end() - 1},
                  .answer = ChoiceOfLetter(std::string(absl::StripAsciiWhitespace(record.back())))};
    }
    if (!IsValid(question)) {
      return absl::InvalidArgumentError(
          absl::StrCat("record ", questions.size() + 1, " is no question with ", kMinChoices,
                       " to ", kMaxChoices, " choices and the letter of one"));
    }
    questions.push_back(std::move(question));
  }
  return questions;
}

absl::StatusOr<std::vector<ChoiceQuestion>> ParseChoiceJsonLines(const std::string& text) {
  std::vector<ChoiceQuestion> questions;
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  for (size_t i = 0; i < lines.size(); ++i) {
    if (absl::StripAsciiWhitespace(lines[i]).empty()) continue;
    std::optional<ChoiceQuestion> question =
        FromJson(nlohmann::json::parse(lines[i], nullptr, /*allow_exceptions=*/false));
    if (!question) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", i + 1, " is no JSON object with a string question, ", kMinChoices,
                       " to ", kMaxChoices,
                       " choices that are strings, and an answer that is the "
                       "number of one, from 0, or its letter"));
    }
    questions.push_back(*std::move(question));
  }
  return questions;
}

ChoiceCase EncodeChoice(const ChoiceQuestion& question, const ChoicePrompt& prompt,
                        const Tokenizer& tokenizer) {
  std::string text = prompt.preamble;
  if (!text.empty()) text += "\n\n";
  for (const ChoiceQuestion& shot : prompt.shots) {
    absl::StrAppend(&text, QuestionText(shot, prompt.letters),
                    ChoiceText(shot, static_cast<size_t>(shot.answer), prompt.letters), "\n\n");
  }
  text += QuestionText(question, prompt.letters);

  const auto encode = [&](const std::string& whole) {
    return tokenizer.Encode(whole, /*parse_special=*/false, /*add_bos=*/true);
  };
  // The prompt's last tokens may be others where a choice follows: its tokens are those behind what
  // is the same for all.
  ChoiceCase result;
  result.prompt = encode(text);
  result.answer = question.answer;
  size_t same = result.prompt.size();
  for (size_t i = 0; i < question.choices.size(); ++i) {
    const std::string choice = ChoiceText(question, i, prompt.letters);
    result.characters.push_back(Characters(choice) - 1);
    result.choices.push_back(encode(text + choice));
    const std::vector<int32_t>& whole = result.choices.back();
    const auto ends = std::ranges::mismatch(result.prompt, whole);
    same =
        std::min({same, static_cast<size_t>(ends.in1 - result.prompt.begin()), whole.size() - 1});
  }
  result.prompt.resize(same);
  for (std::vector<int32_t>& choice : result.choices) {
    choice.erase(choice.begin(), choice.begin() + static_cast<std::ptrdiff_t>(same));
  }
  return result;
}

}  // namespace winnow

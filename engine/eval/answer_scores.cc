#include "engine/eval/answer_scores.h"

#include <unicode/locid.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>

#include <algorithm>
#include <map>
#include <set>

namespace winnow {
namespace {

using Words = std::vector<icu::UnicodeString>;

bool IsAsciiPunctuation(char16_t c) {
  return (c >= u'!' && c <= u'/') || (c >= u':' && c <= u'@') || (c >= u'[' && c <= u'`') ||
         (c >= u'{' && c <= u'~');
}

// Whether a character is of a word, in the sense of regular expressions.
bool IsWordCharacter(UChar32 c) {
  constexpr uint32_t kLettersAndNumbers = U_GC_L_MASK | U_GC_N_MASK;
  return (U_GET_GC_MASK(c) & kLettersAndNumbers) != 0 || c == '_';
}

bool IsArticle(const icu::UnicodeString& word) {
  return word == u"a" || word == u"an" || word == u"the";
}

icu::UnicodeString FromUtf8(std::string_view text) {
  return icu::UnicodeString::fromUTF8(
      icu::StringPiece(text.data(), static_cast<int32_t>(text.size())));
}

Words SplitWords(const icu::UnicodeString& text) {
  Words words;
  for (int32_t i = 0; i < text.length();) {
    const int32_t begin = i;
    while (i < text.length() && !u_isUWhiteSpace(text[i])) ++i;
    if (i > begin) words.emplace_back(text, begin, i - begin);
    ++i;
  }
  return words;
}

// Articles become spaces; they need not stand between spaces ("the—" has one).
icu::UnicodeString WithoutArticles(const icu::UnicodeString& text) {
  icu::UnicodeString result;
  for (int32_t i = 0; i < text.length();) {
    const int32_t begin = i;
    while (i < text.length() && IsWordCharacter(text.char32At(i))) i = text.moveIndex32(i, 1);
    const icu::UnicodeString word(text, begin, i - begin);
    result.append(IsArticle(word) ? icu::UnicodeString(u" ") : word);
    if (i < text.length()) {
      result.append(text.char32At(i));
      i = text.moveIndex32(i, 1);
    }
  }
  return result;
}

Words NormalizedWords(std::string_view text) {
  icu::UnicodeString kept;
  const icu::UnicodeString lower = FromUtf8(text).toLower(icu::Locale::getRoot());
  for (int32_t i = 0; i < lower.length(); ++i) {
    if (!IsAsciiPunctuation(lower[i])) kept.append(lower[i]);
  }
  return SplitWords(WithoutArticles(kept));
}

double HarmonicMean(double common, size_t answer, size_t expected) {
  if (common == 0) return 0;
  const double precision = common / static_cast<double>(answer);
  const double recall = common / static_cast<double>(expected);
  return 2 * precision * recall / (precision + recall);
}

// The words of each sentence; full stops end sentences.
std::vector<Words> Sentences(std::string_view text) {
  std::vector<Words> sentences;
  while (true) {
    const size_t end = text.find('.');
    sentences.push_back(SplitWords(FromUtf8(text.substr(0, end))));
    if (end == std::string_view::npos) return sentences;
    text.remove_prefix(end + 1);
  }
}

// Adds the words of the longest common subsequence of both; of several, the one that ends soonest
// in the second.
void AddCommonSubsequence(const Words& first, const Words& second,
                          std::set<icu::UnicodeString>* words) {
  const size_t columns = second.size() + 1;
  std::vector<int> lengths((first.size() + 1) * columns);  // of what is before both places
  for (size_t i = 1; i <= first.size(); ++i) {
    for (size_t j = 1; j <= second.size(); ++j) {
      lengths[i * columns + j] =
          first[i - 1] == second[j - 1]
              ? lengths[(i - 1) * columns + j - 1] + 1
              : std::max(lengths[(i - 1) * columns + j], lengths[i * columns + j - 1]);
    }
  }
  for (size_t i = first.size(), j = second.size(); i > 0 && j > 0;) {
    if (first[i - 1] == second[j - 1]) {
      words->insert(first[i - 1]);
      --i;
      --j;
    } else if (lengths[(i - 1) * columns + j] > lengths[i * columns + j - 1]) {
      --i;
    } else {
      --j;
    }
  }
}

std::set<icu::UnicodeString> DifferentWords(const std::vector<Words>& sentences) {
  std::set<icu::UnicodeString> different;
  for (const Words& words : sentences) different.insert(words.begin(), words.end());
  return different;
}

}  // namespace

std::string NormalizeAnswer(std::string_view text) {
  std::string normalized;
  for (const icu::UnicodeString& word : NormalizedWords(text)) {
    if (!normalized.empty()) normalized += ' ';
    word.toUTF8String(normalized);
  }
  return normalized;
}

double AnswerF1(std::string_view answer, std::string_view expected) {
  const Words expected_words = NormalizedWords(expected);
  const Words answer_words = NormalizedWords(answer);
  std::map<icu::UnicodeString, int> left;
  for (const icu::UnicodeString& word : expected_words) ++left[word];
  int common = 0;
  for (const icu::UnicodeString& word : answer_words) {
    if (const auto found = left.find(word); found != left.end() && found->second-- > 0) ++common;
  }
  return HarmonicMean(common, answer_words.size(), expected_words.size());
}

double ExactMatch(std::string_view answer, std::string_view expected) {
  return NormalizeAnswer(answer) == NormalizeAnswer(expected) ? 1 : 0;
}

double RougeL(std::string_view answer, std::string_view expected) {
  const std::vector<Words> answer_sentences = Sentences(answer);
  const std::vector<Words> expected_sentences = Sentences(expected);
  std::set<icu::UnicodeString> common;
  for (const Words& sentence : expected_sentences) {
    for (const Words& other : answer_sentences) AddCommonSubsequence(sentence, other, &common);
  }
  return HarmonicMean(static_cast<double>(common.size()), DifferentWords(answer_sentences).size(),
                      DifferentWords(expected_sentences).size());
}

AnswerScores ScoreAnswer(std::string_view answer, const std::vector<std::string>& expected) {
  AnswerScores best;
  for (const std::string& text : expected) {
    best.f1 = std::max(best.f1, AnswerF1(answer, text));
    best.exact_match = std::max(best.exact_match, ExactMatch(answer, text));
    best.rouge_l = std::max(best.rouge_l, RougeL(answer, text));
  }
  return best;
}

}  // namespace winnow

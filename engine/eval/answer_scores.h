#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace winnow {

// How near an answer is to one that is expected, 0 to 1, as LongBench scores English tasks (Bai et
// al., "LongBench", 2023: section 3 and its evaluation). All text is UTF-8.

/// An answer as questions' scorers see it: in lower case, without ASCII punctuation and the words
/// a, an and the, its words separated by single spaces (SQuAD).
std::string NormalizeAnswer(std::string_view text);

/// Harmonic mean of precision and recall of the normalised words, each counted as often as it
/// stands in both.
double AnswerF1(std::string_view answer, std::string_view expected);

/// 1 where the normalised texts are equal, else 0.
double ExactMatch(std::string_view answer, std::string_view expected);

/// ROUGE-L of summaries (Lin, "ROUGE", 2004, section 3.2) as the Python package rouge has it, which
/// LongBench uses: texts are sentences that end at full stops. Of the different words that any
/// longest common subsequence of two sentences holds, the harmonic mean of their shares of the
/// different words of the one text and the other.
double RougeL(std::string_view answer, std::string_view expected);

/// The three of an answer.
struct AnswerScores {
  double f1 = 0;
  double exact_match = 0;
  double rouge_l = 0;
};

/// The best of each over what is expected; zeros if nothing is.
AnswerScores ScoreAnswer(std::string_view answer, const std::vector<std::string>& expected);

}  // namespace winnow

#include "engine/sequence/sequence.h"

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

namespace winnow {

Sequence::Sequence(const Request& request, const Tokenizer& tokenizer, int64_t arrival, int index,
                   uint64_t seed, int max_length, const RecallOptions& recall)
    : request_(request),
      tokenizer_(tokenizer),
      arrival_(arrival),
      index_(index),
      seed_(seed),
      max_length_(max_length),
      tokens_(request.prompt_tokens),
      length_(static_cast<int>(tokens_.size())),
      history_(request.sampling, request.prompt_tokens),
      // A continuation goes on after the prompt's text: a leading space is meant.
      detokenizer_(tokenizer, request.render_special, /*at_text_start=*/false),
      stop_matcher_(request.stop),
      attention_(request.attention, recall, prompt_length()),
      priority_(request.priority) {}

bool Sequence::Before(const Sequence& other) const {
  return std::tie(priority_, arrival_, index_) <
         std::tie(other.priority_, other.arrival_, other.index_);
}

void Sequence::SetDrafts(std::span<const int32_t> drafts) {
  tokens_.resize(static_cast<size_t>(length_));
  // The token after the last draft must still fit.
  const auto useful = static_cast<size_t>(std::max(0, max_length_ - length_ - 1));
  const auto kept = drafts.first(std::min(drafts.size(), useful));
  tokens_.insert(tokens_.end(), kept.begin(), kept.end());
}

Span Sequence::NextSpan(int rows) {
  const Selection selection = attention_.SelectionAt(computed_);
  int end = computed_ + 1;
  while (end < computed_ + rows && attention_.SelectionAt(end) == selection) ++end;
  const int count = end - computed_;
  return {.sequence = this,
          .begin = computed_,
          .tokens = std::span(tokens_).subspan(static_cast<size_t>(computed_),
                                               static_cast<size_t>(count)),
          .selection = selection,
          .first_logit = std::min(count, length_ - 1 - computed_),
          .decode = decoding()};
}

absl::StatusOr<Output> Sequence::Accept(std::span<const int32_t> choices,
                                        std::span<TokenDescription> descriptions) {
  const std::vector<int32_t> drafts(this->drafts().begin(), this->drafts().end());
  SetDrafts({});
  Output output;
  output.index = index_;
  for (size_t i = 0; i < choices.size(); ++i) {
    const int32_t choice = choices[i];
    if (choice < 0) return NoChoice(choice);
    OutputToken token{choice, std::nullopt, {}};
    if (request_.logprobs) {
      token.logprob = descriptions[i].logprob;
      token.top_logprobs = std::move(descriptions[i].alternatives);
    }
    const bool ends = Append(std::move(token), output);
    const bool guessed = i + 1 < choices.size() && drafts[i] == choice;
    if (ends || !guessed) break;
    ++computed_;  // as the draft
  }
  return output;
}

// Adds a token to the sequence and to the output; whether it is the last one.
bool Sequence::Append(OutputToken token, Output& output) {
  const int32_t id = token.token;
  tokens_.push_back(id);
  ++length_;
  history_.Append(id);
  output.tokens.push_back(std::move(token));

  if (std::ranges::find(request_.stop_token_ids, id) != request_.stop_token_ids.end()) {
    Finish(FinishReason::kStop, output);
    Detokenizer spelling(tokenizer_, /*render_special=*/true, /*at_text_start=*/false);
    output.matched_stop = spelling.Append(id);
    output.matched_stop += spelling.Flush();
  } else if (!request_.ignore_eos && tokenizer_.IsEndOfGeneration(id)) {
    Finish(FinishReason::kStop, output);
  } else {
    StopMatcher::Match match = stop_matcher_.Append(detokenizer_.Append(id));
    output.text += match.text;
    if (match.stop) {
      output.finish_reason = FinishReason::kStop;
      output.matched_stop = *std::move(match.stop);
    } else if (length_ == max_length_) {
      Finish(FinishReason::kLength, output);
    }
  }
  return output.finish_reason.has_value();
}

Output Sequence::Abort() {
  Output output;
  output.index = index_;
  Finish(FinishReason::kCancelled, output);
  return output;
}

// Adds the text held back: what could have begun a stop string, then an incomplete character.
void Sequence::Finish(FinishReason reason, Output& output) {
  output.finish_reason = reason;
  output.text += stop_matcher_.Flush();
  output.text += detokenizer_.Flush();
}

}  // namespace winnow

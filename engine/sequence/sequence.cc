#include "engine/sequence/sequence.h"

#include <algorithm>
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

Output Sequence::Append(OutputToken token) {
  const int32_t id = token.token;
  tokens_.push_back(id);
  history_.Append(id);

  Output output;
  output.index = index_;
  output.tokens.push_back(std::move(token));

  if (std::ranges::find(request_.stop_token_ids, id) != request_.stop_token_ids.end()) {
    Finish(FinishReason::kStop, output);
    Detokenizer spelling(tokenizer_, /*render_special=*/true, /*at_text_start=*/false);
    output.matched_stop = spelling.Append(id);
    output.matched_stop += spelling.Flush();
    return output;
  }
  if (!request_.ignore_eos && tokenizer_.IsEndOfGeneration(id)) {
    Finish(FinishReason::kStop, output);
    return output;
  }

  StopMatcher::Match match = stop_matcher_.Append(detokenizer_.Append(id));
  output.text = std::move(match.text);
  if (match.stop) {
    output.finish_reason = FinishReason::kStop;
    output.matched_stop = *std::move(match.stop);
  } else if (length() == max_length_) {
    Finish(FinishReason::kLength, output);
  }
  return output;
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

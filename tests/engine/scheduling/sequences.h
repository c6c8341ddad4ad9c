// Sequences for tests of those who order and schedule them.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "engine/sequence/sequence.h"
#include "tests/engine/fakes.h"

namespace winnow {

/// Makes sequences with their requests, which live as long as it does. Each one is younger than
/// those before it.
class Sequences {
 public:
  struct Kind {
    int prompt = 4;  ///< tokens, which are those of no other prompt of another `first`
    int first = 0;
    int priority = 0;
    std::string client = "";
    int max_tokens = 20;
    SamplingParams sampling = {};
    AttentionPolicy attention = {};
    RecallOptions recall = {};
    absl::Time deadline = absl::InfiniteFuture();
  };

  Sequence& Make() { return Make(Kind{}); }
  Sequence& Make(const Kind& kind) {
    Request request;
    request.id = requests_.size();
    for (int i = 0; i < kind.prompt; ++i) request.prompt_tokens.push_back((kind.first + i) % 15);
    request.priority = kind.priority;
    request.client = kind.client;
    request.max_tokens = kind.max_tokens;
    request.sampling = kind.sampling;
    request.attention = kind.attention;
    request.deadline = kind.deadline;
    request.ignore_eos = true;
    requests_.push_back(std::move(request));
    return sequences_.emplace_back(requests_.back(), tokenizer_, arrivals_++, 0, 1,
                                   kind.prompt + kind.max_tokens, kind.recall);
  }

  /// Another continuation of the same request.
  Sequence& Sibling(const Sequence& sequence) {
    return sequences_.emplace_back(sequence.request(), tokenizer_, sequence.arrival(),
                                   sequence.index() + 1, 1, sequence.max_length(), RecallOptions{});
  }

 private:
  LetterTokenizer tokenizer_{16};
  std::deque<Request> requests_;
  std::deque<Sequence> sequences_;
  int64_t arrivals_ = 0;
};

/// Computes what a sequence has and lets it choose a token: it decodes from then on.
inline void BeginToDecode(Sequence& sequence) {
  sequence.SetPast();
  sequence.set_computed(sequence.length());
  const int32_t token = 1;
  ASSERT_TRUE(sequence.Accept({&token, 1}, {}).ok());
}

}  // namespace winnow

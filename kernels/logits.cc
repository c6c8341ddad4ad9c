#include "kernels/logits.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

namespace winnow {
namespace {

// Of loops over so many lanes apart the compiler makes vectors, unasked.
constexpr size_t kLanes = 16;

}  // namespace

bool HasNan(std::span<const float> logits) {
  int32_t unordered[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) unordered[j] |= logits[i + j] != logits[i + j];
  }
  for (; i < logits.size(); ++i) unordered[0] |= logits[i] != logits[i];
  return std::ranges::any_of(unordered, [](int32_t lane) { return lane != 0; });
}

int32_t LargestLogit(std::span<const float> logits) {
  float maxima[kLanes];
  std::fill(std::begin(maxima), std::end(maxima), -std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) {
      maxima[j] = logits[i + j] > maxima[j] ? logits[i + j] : maxima[j];
    }
  }
  float largest = *std::ranges::max_element(maxima);
  for (; i < logits.size(); ++i) largest = logits[i] > largest ? logits[i] : largest;
  return static_cast<int32_t>(std::ranges::find(logits, largest) - logits.begin());
}

bool Before(const TokenValue& a, const TokenValue& b) {
  return a.value > b.value || (a.value == b.value && a.token < b.token);
}

// A heap with the smallest kept logit on top: almost every logit of a large vocabulary is turned
// away by one comparison.
void KeepLargest(std::span<const float> logits, size_t count, std::vector<TokenValue>* largest) {
  largest->clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (largest->size() == count) {
      if (!(logits[i] > largest->front().value)) continue;
      std::pop_heap(largest->begin(), largest->end(), Before);
      largest->pop_back();
    }
    largest->push_back({logits[i], static_cast<int32_t>(i)});
    std::push_heap(largest->begin(), largest->end(), Before);
  }
  std::sort_heap(largest->begin(), largest->end(), Before);
}

TokenDescription DescribeToken(std::span<const float> logits, int32_t token, int alternatives) {
  const float largest = logits[static_cast<size_t>(LargestLogit(logits))];
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  const double log_sum = largest + std::log(sum);
  const auto logprob = [&](float logit) { return static_cast<float>(logit - log_sum); };

  TokenDescription description{logprob(logits[static_cast<size_t>(token)]), {}};
  if (alternatives > 0) {
    std::vector<TokenValue> most_probable;
    KeepLargest(logits, static_cast<size_t>(alternatives), &most_probable);
    for (const TokenValue& c : most_probable) {
      description.alternatives.push_back({c.token, logprob(c.value)});
    }
  }
  return description;
}

}  // namespace winnow

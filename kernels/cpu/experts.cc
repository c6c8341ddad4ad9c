#include "kernels/cpu/experts.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

namespace winnow::cpu {

void ChooseExperts(std::span<const float> logits, bool normalizes, std::span<int32_t> ids,
                   float* weights) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const auto experts = static_cast<int32_t>(logits.size());
  assert(ids.size() <= logits.size());
  // What is no number, as weights of any bytes make it, is chosen last. Each choice is the largest
  // of those that come after the one before: lower logits, or equal ones of higher experts.
  float before = kInfinity;
  int32_t id_before = -1;
  for (size_t i = 0; i < ids.size(); ++i) {
    float best = -kInfinity;
    int32_t id = experts;
    for (int32_t e = 0; e < experts; ++e) {
      const float logit = std::isnan(logits[e]) ? -kInfinity : logits[e];
      const bool left = logit < before || (logit == before && e > id_before);
      if (left && (logit > best || id == experts)) {
        best = logit;
        id = e;
      }
    }
    ids[i] = id;
    before = best;
    id_before = id;
  }
  const float largest = logits[ids[0]];
  float sum = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    weights[i] = std::exp(logits[ids[i]] - largest);
    sum += weights[i];
  }
  if (!normalizes) {
    sum = 0;
    for (const float logit : logits) sum += std::exp(logit - largest);
  }
  for (size_t i = 0; i < ids.size(); ++i) weights[i] /= sum;
}

void GroupPairs(const ExpertRoutes& routes) {
  const int64_t pairs = routes.rows * routes.chosen;
  int32_t next[kMaxExperts] = {};  // first counts, then where an expert's next pair goes
  for (int64_t pair = 0; pair < pairs; ++pair) ++next[routes.ids[pair]];
  ExpertGroup* group = routes.groups;
  int32_t begin = 0;
  for (int32_t e = 0; e < routes.experts; ++e) {
    const int32_t count = next[e];
    if (count > 0) *group++ = {e, begin, count};
    next[e] = begin;
    begin += count;
  }
  *routes.expert_reads += group - routes.groups;
  std::fill(group, routes.groups + routes.experts, ExpertGroup{});
  for (int64_t pair = 0; pair < pairs; ++pair) {
    routes.pairs[next[routes.ids[pair]]++] = static_cast<int32_t>(pair);
  }
}

void AddScaled(const float* x, float weight, int64_t columns, float* sum) {
  for (int64_t c = 0; c < columns; ++c) sum[c] += weight * x[c];
}

}  // namespace winnow::cpu

#include "engine/attention_accounting.h"

#include <algorithm>

#include "engine/sequence/sequence.h"

namespace winnow {

void NoteTraffic(std::span<const Span> spans, const ForwardPass& forward, StepStats& stats) {
  for (const Span& span : spans) {
    const int prompt_end = std::min(span.end(), span.sequence->prompt_length());
    if (span.begin < prompt_end) {
      stats.traffic += forward.PromptTraffic(span.begin, prompt_end);
    }
    for (int position = std::max(span.begin, prompt_end); position < span.end(); ++position) {
      const KvTraffic row = forward.Traffic(span.selection, position + 1);
      stats.traffic += row;
      span.sequence->mutable_attention().AddTraffic(position, row);
    }
  }
}

void NoteProbes(const StepBuilder& step, std::span<const ProbedMass> found, StepStats& stats) {
  for (size_t i = 0; i < found.size(); ++i) {
    const StepBuilder::Probed& probed = step.probed(i);
    stats.probed.push_back(found[i]);
    if (probed.sequence->mutable_attention().AddProbe(probed.position, found[i])) {
      ++stats.fallbacks;
    }
  }
}

}  // namespace winnow

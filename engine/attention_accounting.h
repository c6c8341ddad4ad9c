#pragma once

#include <span>

#include "engine/model/forward_pass.h"
#include "engine/observer.h"
#include "engine/scheduling/step_builder.h"
#include "engine/sequence/span.h"

namespace winnow {

/// Counts what the attention of a step's spans has read, for the step and for each sequence.
/// REQUIRES: nothing of the spans has been accepted yet.
void NoteTraffic(std::span<const Span> spans, const ForwardPass& forward, StepStats& stats);

/// Takes what the probes of a step found ([probes of its batch]): budgets of
/// sequences whose selections hold too little are doubled.
void NoteProbes(const StepBuilder& step, std::span<const ProbedMass> found, StepStats& stats);

}  // namespace winnow

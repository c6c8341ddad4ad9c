#pragma once

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace winnow {

/// Floating-point operations per second of one large product, the ceiling beside which prefill's
/// are printed: `rows` random rows times a bf16 matrix [11008, 4096]; median of some.
/// RESOURCE_EXHAUSTED when memory is short.
absl::StatusOr<double> MeasureProductRate(Backend& backend, int rows);

}  // namespace winnow

#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace winnow {

struct BackendOptions {
  std::string device = "cpu";   ///< "cpu" or "cuda"
  int threads = 0;              ///< that compute on the CPU; 0: one per core
  bool exact_products = false;  ///< of activations in fp32; the CPU alone has them
};

/// The backend of that device. FAILED_PRECONDITION when this binary was built without it, or the
/// machine lacks it or what it needs; INVALID_ARGUMENT when it can't do what is asked.
absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options);

}  // namespace winnow

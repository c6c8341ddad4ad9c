#include "kernels/cuda/recordings.h"

#include <algorithm>

#include "kernels/cuda/status.h"

namespace winnow::cuda {
namespace {

// Shapes come with batch sizes, with contexts in steps of an eighth and with powers of two of
// budgets. A graph takes about a megabyte.
constexpr size_t kMaxGraphs = 256;

}  // namespace

GraphRecordings::~GraphRecordings() { Forget(); }

void GraphRecordings::Forget() {
  for (const auto& [shape, recording] : recordings_) {
    if (recording.graph != nullptr) cudaGraphExecDestroy(recording.graph);
  }
  recordings_.clear();
}

// A graph that still runs is freed when it has ended.
void GraphRecordings::ForgetOldest() {
  const auto oldest = std::ranges::min_element(
      recordings_, {}, [](const auto& entry) { return entry.second.last_run; });
  if (oldest->second.graph != nullptr) cudaGraphExecDestroy(oldest->second.graph);
  recordings_.erase(oldest);
}

absl::Status GraphRecordings::Run(const StepShape& shape, absl::FunctionRef<int()> generation,
                                  cudaStream_t stream, absl::FunctionRef<void()> queue) {
  if (generation_ != generation()) Forget();
  generation_ = generation();
  ++runs_;
  const auto known = recordings_.find(shape);
  if (known == recordings_.end()) {
    queue();
    if (generation() != generation_) return absl::OkStatus();
    if (recordings_.size() == kMaxGraphs) ForgetOldest();
    recordings_[shape].last_run = runs_;
    return absl::OkStatus();
  }
  Recording& recording = known->second;
  recording.last_run = runs_;
  if (recording.graph == nullptr && !recording.lacks_memory) {
    absl::Status status = Capture(stream, queue, &recording);
    if (!status.ok()) return status;
  }
  if (recording.lacks_memory) {
    queue();
    return absl::OkStatus();
  }
  return CudaStatus(cudaGraphLaunch(recording.graph, stream), "cudaGraphLaunch");
}

absl::Status GraphRecordings::Capture(cudaStream_t stream, absl::FunctionRef<void()> queue,
                                      Recording* recording) {
  absl::Status status = CudaStatus(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
                                   "cudaStreamBeginCapture");
  if (!status.ok()) return status;
  queue();
  cudaGraph_t captured = nullptr;
  status = CudaStatus(cudaStreamEndCapture(stream, &captured), "cudaStreamEndCapture");
  if (!status.ok()) return status;
  const cudaError_t error = cudaGraphInstantiate(&recording->graph, captured, 0);
  cudaGraphDestroy(captured);
  recording->lacks_memory = error == cudaErrorMemoryAllocation;
  if (!recording->lacks_memory) return CudaStatus(error, "cudaGraphInstantiate");
  cudaGetLastError();  // not sticky: forget it
  recording->graph = nullptr;
  return absl::OkStatus();
}

}  // namespace winnow::cuda

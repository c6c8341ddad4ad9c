#include "kernels/cuda/recordings.h"

#include "kernels/cuda/status.h"

namespace winnow::cuda {
namespace {

// Shapes come with batch sizes and, in steps of an eighth, with contexts. A graph takes about a
// megabyte.
constexpr size_t kMaxGraphs = 256;

}  // namespace

GraphRecordings::~GraphRecordings() { Forget(); }

void GraphRecordings::Forget() {
  for (const auto& [shape, graph] : graphs_) {
    if (graph != nullptr) cudaGraphExecDestroy(graph);
  }
  graphs_.clear();
}

absl::Status GraphRecordings::Run(const StepShape& shape, const std::function<int()>& generation,
                                  cudaStream_t stream, const std::function<void()>& queue) {
  if (generation_ != generation() || graphs_.size() == kMaxGraphs) Forget();
  generation_ = generation();
  const auto known = graphs_.find(shape);
  if (known == graphs_.end()) {
    queue();
    if (generation() == generation_) graphs_[shape] = nullptr;
    return absl::OkStatus();
  }
  cudaGraphExec_t& graph = known->second;
  if (graph == nullptr) {
    if (absl::Status status = Capture(stream, queue, &graph); !status.ok()) return status;
  }
  return CudaStatus(cudaGraphLaunch(graph, stream), "cudaGraphLaunch");
}

absl::Status GraphRecordings::Capture(cudaStream_t stream, const std::function<void()>& queue,
                                      cudaGraphExec_t* graph) {
  absl::Status status = CudaStatus(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
                                   "cudaStreamBeginCapture");
  if (!status.ok()) return status;
  queue();
  cudaGraph_t captured = nullptr;
  status = CudaStatus(cudaStreamEndCapture(stream, &captured), "cudaStreamEndCapture");
  if (!status.ok()) return status;
  status = CudaStatus(cudaGraphInstantiate(graph, captured, 0), "cudaGraphInstantiate");
  cudaGraphDestroy(captured);
  return status;
}

}  // namespace winnow::cuda

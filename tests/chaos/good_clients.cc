#include "tests/chaos/good_clients.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/chaos/tokens.h"

namespace winnow {
namespace {

constexpr const char* kPrompts[] = {
    "The history of bread begins", "A list of cities: Paris, London,", "Water boils when",
    "def fibonacci(n):\n",         "The three laws of robotics are",
};
constexpr int kMaxTokens = 24;

v1::GenerateRequest MakeRequest(size_t prompt) { return Greedy(kPrompts[prompt], kMaxTokens); }

}  // namespace

GoodClients::~GoodClients() { Stop(); }

bool GoodClients::Learn() {
  const auto stub = v1::GenerationService::NewStub(Connect(address_, kGoodToken));
  for (size_t prompt = 0; prompt < std::size(kPrompts); ++prompt) {
    const Generation answer = Generate(*stub, MakeRequest(prompt));
    if (!answer.status.ok() || answer.tokens() != kMaxTokens) return false;
    answers_.push_back(answer.continuations[0].text);
  }
  return true;
}

void GoodClients::Start(int clients) {
  stop_ = false;
  for (int i = 0; i < clients; ++i) threads_.emplace_back([this, i] { Run(i); });
}

GoodReport GoodClients::Stop() {
  stop_ = true;
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  absl::MutexLock lock(&mutex_);
  return std::exchange(report_, GoodReport());
}

void GoodClients::Run(size_t first_prompt) {
  const auto stub = v1::GenerationService::NewStub(Connect(address_, kGoodToken));
  for (size_t prompt = first_prompt; !stop_; ++prompt) Ask(*stub, prompt % std::size(kPrompts));
}

void GoodClients::Ask(v1::GenerationService::Stub& stub, size_t prompt) {
  const absl::Time begin = absl::Now();
  while (true) {
    Stream stream(stub, MakeRequest(prompt));
    stream.ReadTokens(1);
    const double ttft_seconds = absl::ToDoubleSeconds(absl::Now() - begin);
    const Generation& answer = stream.Finish();
    if (answer.status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED) {
      {
        absl::MutexLock lock(&mutex_);
        ++report_.retried;
      }
      absl::SleepFor(std::max(RetryDelay(answer.status), absl::Milliseconds(10)));
      continue;
    }
    absl::MutexLock lock(&mutex_);
    if (!answer.status.ok()) {
      report_.failures.push_back(absl::StrCat("code ", static_cast<int>(answer.status.error_code()),
                                              ": ", answer.status.error_message()));
    } else if (answer.continuations.at(0).text != answers_[prompt]) {
      report_.failures.push_back(absl::StrCat("\"", answer.continuations[0].text,
                                              "\" instead of \"", answers_[prompt], "\""));
    } else {
      ++report_.answered;
      report_.ttft_seconds.push_back(ttft_seconds);
      report_.total_seconds.push_back(absl::ToDoubleSeconds(absl::Now() - begin));
    }
    return;
  }
}

double Quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(values.size())));
  return values[std::max<size_t>(rank, 1) - 1];
}

}  // namespace winnow

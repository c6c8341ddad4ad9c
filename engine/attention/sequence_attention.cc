#include "engine/attention/sequence_attention.h"

#include <algorithm>

namespace winnow {
namespace {

/// Spreads positions evenly over heads (the finaliser of SplitMix64).
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// A budget of 2^20 times any is all there is.
constexpr int kMaxDoublings = 20;

}  // namespace

SequenceAttention::SequenceAttention(const AttentionPolicy& policy, const RecallOptions& options,
                                     int prompt_length)
    : policy_(policy), options_(options), prompt_length_(prompt_length) {}

Selection SequenceAttention::SelectionAt(int position) const {
  if (position < prompt_length_ || policy_.kind == SelectionKind::kAll) return {};
  const auto doublings =
      std::ranges::upper_bound(boost_positions_, position) - boost_positions_.begin();
  return SelectionOf(policy_, 1 << doublings);
}

std::optional<RecallProbe> SequenceAttention::ProbeAt(int position, int layers,
                                                      int kv_heads) const {
  if (policy_.kind == SelectionKind::kAll || options_.interval_tokens == 0 || layers == 0) {
    return std::nullopt;
  }
  const int generated = position - prompt_length_;
  if (generated < 0 || position <= last_probed_ || generated % options_.interval_tokens != 0)
    return std::nullopt;
  const auto head = static_cast<int>(Mix(static_cast<uint64_t>(position)) %
                                     static_cast<uint64_t>(layers * kv_heads));
  return RecallProbe{.row = 0, .layer = head / kv_heads, .kv_head = head % kv_heads};
}

void SequenceAttention::AddTraffic(int position, const KvTraffic& traffic) {
  if (position <= last_counted_) return;
  last_counted_ = position;
  traffic_ += traffic;
}

bool SequenceAttention::AddProbe(int position, const ProbedMass& found) {
  last_probed_ = position;
  recall_sum_ += found.recall;
  estimated_sum_ += found.estimated;
  ++recall_samples_;
  recent_sum_ += found.recall;
  ++recent_samples_;
  if (recent_samples_ < options_.floor_samples || recent_sum_ >= options_.floor * recent_samples_ ||
      fallbacks() == kMaxDoublings) {
    return false;
  }
  boost_positions_.push_back(position + 1);
  recent_sum_ = 0;
  recent_samples_ = 0;
  return true;
}

}  // namespace winnow

#include "engine/attention/policy.h"

#include <algorithm>
#include <limits>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace winnow {
namespace {

struct Name {
  SelectionKind kind;
  std::string_view name;
};

constexpr Name kNames[] = {{SelectionKind::kAll, "dense"},
                           {SelectionKind::kLabels, "double-sparsity"},
                           {SelectionKind::kWindow, "window"},
                           {SelectionKind::kScores, "true-scores"}};

}  // namespace

std::string_view PolicyName(SelectionKind kind) {
  for (const Name& entry : kNames) {
    if (entry.kind == kind) return entry.name;
  }
  return "";
}

absl::StatusOr<SelectionKind> ParsePolicyName(std::string_view name) {
  std::string names;
  for (const Name& entry : kNames) {
    if (entry.name == name) return entry.kind;
    absl::StrAppend(&names, names.empty() ? "" : ", ", std::string(entry.name));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown attention policy ", std::string(name), "; there are ", names));
}

Selection SelectionOf(const AttentionPolicy& policy, int boost) {
  return {.kind = policy.kind,
          .fraction = static_cast<float>(boost / policy.sparsity),
          .budget_tokens = static_cast<int32_t>(std::min<int64_t>(
              int64_t{policy.budget_tokens} * boost, std::numeric_limits<int32_t>::max()))};
}

KvTraffic& KvTraffic::operator+=(const KvTraffic& other) {
  dense_bytes += other.dense_bytes;
  row_bytes += other.row_bytes;
  label_bytes += other.label_bytes;
  summary_bytes += other.summary_bytes;
  equivalent_bytes += other.equivalent_bytes;
  attended_tokens += other.attended_tokens;
  context_tokens += other.context_tokens;
  heads += other.heads;
  return *this;
}

}  // namespace winnow

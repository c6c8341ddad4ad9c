#!/usr/bin/env bash
# Builds and runs the fuzz targets of tests/fuzz: fuzz.sh SECONDS [TARGET...], by default all of
# them, as many at a time as there are cores. Inputs that reach new code gather in
# build/fuzz/corpus, those that break something in build/fuzz/findings; nothing is written into the
# source tree.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:?usage: fuzz.sh SECONDS [TARGET...]}
shift
mapfile -t all < <(sed -n 's/^winnow_fuzz(\([a-z_]*\)_fuzz .*/\1/p' tests/fuzz/CMakeLists.txt)
if [[ $# -eq 0 ]]; then set -- "${all[@]}"; fi

bin=build/asan/tests/fuzz
work=build/fuzz
cmake --preset asan
cmake --build build/asan -j "$(nproc)" --target fuzz_targets
rm -rf $work/seeds
$bin/make_seeds $work/seeds

# Runs one target; prints one line when all is well, else what the fuzzer says.
run_target() {
  local target=$1 seconds=$2 bin=$3 work=$4 status=0 last
  local log=$work/$target.log
  mkdir -p "$work/corpus/$target" "$work/findings"
  # Memory is bounded far below what a hostile length could ask for.
  "$bin/${target}_fuzz" -max_total_time="$seconds" -rss_limit_mb=1024 -malloc_limit_mb=128 -timeout=10 \
    -print_final_stats=1 -artifact_prefix="$work/findings/$target-" \
    "$work/corpus/$target" "$work/seeds/$target" >"$log" 2>&1 || status=$?
  if [[ $status -ne 0 ]]; then
    tail -60 "$log"
    echo "fuzz: $target: FAILED"
    return 1
  fi
  last=$(grep -E '^#[0-9]+.* cov: ' "$log" | tail -1)
  echo "fuzz: $target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") executions," \
    "$(sed 's/.* cov: \([0-9]*\).*/\1/' <<<"$last") edges, peak" \
    "$(sed -n 's/^stat::peak_rss_mb: *//p' "$log") MB"
}
export -f run_target
printf '%s\n' "$@" | xargs -P "$(nproc)" -I{} bash -c 'set -euo pipefail; run_target "$@"' _ {} "$seconds" $bin $work

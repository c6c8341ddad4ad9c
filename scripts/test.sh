#!/usr/bin/env bash
# Builds and runs all tests: test.sh [JOBS]. Run by `make test`. MODEL may name a copy of the demo
# model where PyPI can't be reached.
set -euo pipefail
cd "$(dirname "$0")/.."

jobs=${1:-$(nproc)}
model=$(scripts/fetch_model.sh)
cmake --preset release -DWINNOW_DEMO_MODEL="$model"
cmake --build build/release -j "$jobs"

ctest --test-dir build/release --output-on-failure --no-tests=error -j "$jobs" -L '^unit$'
# These use every core themselves and measure time, so one after the other.
ctest --test-dir build/release --output-on-failure --no-tests=error -LE '^unit$'

#!/usr/bin/env bash
# Checks the chart, dashboards, rules and load tests with the tools that their users use, and
# against a running server. Run by `make check-operations` once build/release/winnow is there.
set -euo pipefail
cd "$(dirname "$0")/.."

eval "$(scripts/operations_tools.sh)"
deploy/grafana/dashboards.py --check
python3 -m unittest discover --start-directory tests/operations --verbose

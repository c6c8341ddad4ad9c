#!/usr/bin/env bash
# Serves a model until interrupted. Run by `make serve` once build/release/winnow is there. MODEL,
# ADDRESS and METRICS_ADDRESS may be set.
set -euo pipefail
cd "$(dirname "$0")/.."

model=$(scripts/fetch_model.sh)
exec build/release/winnow serve --model "$model" --address "${ADDRESS:-127.0.0.1:50051}" \
  --metrics-address "${METRICS_ADDRESS:-127.0.0.1:9464}"

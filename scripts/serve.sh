#!/usr/bin/env bash
# Serves a model until interrupted. Run by `make serve` once build/release/winnow is there. MODEL,
# ADDRESS and METRICS_ADDRESS may be set.
set -euo pipefail
cd "$(dirname "$0")/.."

model=$(scripts/fetch_model.sh)
# The demo model's label file fits no other model.
labels=()
if [[ -z "${MODEL:-}" ]]; then labels=(--label-file models/smollm2-135m-instruct.labels.json); fi
exec build/release/winnow serve --model "$model" "${labels[@]}" --address "${ADDRESS:-127.0.0.1:50051}" \
  --metrics-address "${METRICS_ADDRESS:-127.0.0.1:9464}"

#!/usr/bin/env bash
# Correctness first, then every benchmark of the CUDA backend: run.sh RESULT.json. Lies in the
# folder that scripts/cuda_bundle.sh packs. CUBLAS may name the folder of libcublasLt.so.
set -euo pipefail
result=$(realpath -m "${1:?usage: run.sh RESULT.json}")
cd "$(dirname "$0")"

model=models/SmolLM2-135M-Instruct.Q4_1.gguf
labels=models/smollm2-135m-instruct.labels.json
clients=32
client_tokens=1024

# cuBLAS comes with a toolkit or with Python's packages of it.
find_cublas() {
  local library
  library=$(ldconfig -p | awk '/libcublasLt\.so\.13/ && !found++ {print $NF}')
  if [[ -z "$library" ]]; then
    library=$(find / -name 'libcublasLt.so.13' -not -path '/proc/*' -print -quit 2>/dev/null || true)
  fi
  dirname "$library"
}
export LD_LIBRARY_PATH=$PWD/lib:${CUBLAS:-$(find_cublas)}
export WINNOW_DEMO_MODEL=$PWD/$model

results=()
finish() {
  local IFS=,
  printf '{"device": "%s", "results": [\n%s\n]}\n' \
    "$(nvidia-smi --id=0 --query-gpu=name,driver_version --format=csv,noheader)" \
    "${results[*]/#/$'\n'}" > "$result"
}
trap finish EXIT

# note NAME COMMAND...: keeps the JSON object that a command prints, or how it ended.
note() {
  local name=$1 output status=0
  shift
  echo "==== $name: $*"
  output=$("$@" 2>&1) || status=$?
  echo "$output" | tail -n 15
  if [[ "$output" != "{"* || $status -ne 0 ]]; then output="{\"exit_status\": $status}"; fi
  results+=("{\"name\": \"$name\", \"command\": \"$*\", \"result\": $output}")
}

note "decode attention" bin/decode_attention_test --gtest_brief=1
note "operators" bin/cuda_backend_test --gtest_brief=1
note "greedy text and perplexity" bin/golden_test --gtest_filter='*Cuda*'
note "perplexity, dense and sparse" bin/demo_perplexity_test --gtest_filter='*Cuda*'

# json_of COMMAND...: the file that a command writes, instead of its table.
json_of() {
  local file
  file=$(mktemp)
  "$@" "$file" > /dev/null && cat "$file"
}
note "attention kernels" json_of bin/decode_attention_benchmark
note "PyTorch's dense attention" json_of python3 sdpa_baseline.py

attention() {  # batch, context, KV heads
  note "attention" bin/winnow bench attention --device cuda --policy double-sparsity --sparsity 16 \
    --label-width 8 --heads 32 --kv-heads "$3" --head-dim 128 --batch "$1" --context "$2" \
    --seconds 0.5 --json
}
attention 8 16384 32
attention 16 16384 32
attention 4 16384 32
attention 16 4096 32
attention 1 65536 32
attention 16 32768 8

decode() {  # batch, context, policy
  note "decode" bin/winnow bench decode --device cuda --model synthetic:llama-2-7b --batch "$1" \
    --context "$2" --policy "$3" --sparsity 16 --label-width 8 --seconds 1 --json
}
for shape in "4 16384" "8 8192" "16 4096"; do
  # shellcheck disable=SC2086
  for policy in dense double-sparsity; do decode $shape $policy; done
done
note "prefill" bin/winnow bench prefill --device cuda --model synthetic:llama-2-7b --context 8192 \
  --max-step-tokens 8192 --seconds 1 --json

# The server under load: clients that each stream one long completion, all at once, after a first
# round of short ones.
serve() {  # model, temperature
  local log
  log=$(mktemp -d)
  bin/winnow serve --device cuda --model "$1" --address 127.0.0.1:50051 --max-running "$clients" \
    --metrics-address 127.0.0.1:9464 --kv-tokens $((clients * (client_tokens + 256))) \
    --max-context $((client_tokens + 256)) 2> "$log/server" &
  local server=$!
  until bin/winnow health --address 127.0.0.1:50051 > "$log/health" 2>&1; do sleep 0.2; done
  local client tokens jobs
  for tokens in 16 "$client_tokens"; do
    jobs=()
    for ((client = 0; client < clients; ++client)); do
      bin/winnow generate --address 127.0.0.1:50051 --prompt "Story number $client: once upon a time" \
        --max-tokens "$tokens" --temperature "$2" --ignore-eos --json > "$log/client-$client" 2>&1 &
      jobs+=($!)
    done
    wait "${jobs[@]}"
  done
  kill "$server"
  wait "$server" || true
  python3 - "$log" "$clients" <<'PYTHON'
import json, sys
folder, clients = sys.argv[1], int(sys.argv[2])
answers = [json.load(open(f"{folder}/client-{i}")) for i in range(clients)]
tokens = sum(a["usage"]["generated_tokens"] - 1 for a in answers)
seconds = max(a["timings"]["total_seconds"] - a["timings"]["ttft_seconds"] for a in answers)
print(json.dumps({"clients": clients, "generated_tokens": tokens, "seconds": seconds,
                  "tokens_per_second": tokens / seconds}))
PYTHON
}
large=$(mktemp -d)/synthetic.gguf
python3 synthetic_gguf.py "$model" "$large"
for served in "$model" "$large"; do
  note "serve" serve "$served" 0
  note "serve, sampled" serve "$served" 0.8
  note "decode as served" bin/winnow bench decode --device cuda --model "$served" --batch "$clients" \
    --context $((client_tokens / 2)) --seconds 1 --json
done
rm -r "$(dirname "$large")"
note "decode, demo model, sparse" bin/winnow bench decode --device cuda --model "$model" --batch 8 \
  --context 4096 --policy double-sparsity --sparsity 16 --label-file "$labels" --seconds 1 --json

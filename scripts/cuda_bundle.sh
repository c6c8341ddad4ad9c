#!/usr/bin/env bash
# Packs what build/cuda holds into a folder that runs on another Linux machine with an NVIDIA driver
# and cuBLAS: cuda_bundle.sh FOLDER. Leaves FOLDER/part-*, each under 60 MB, which
#   cat part-* | tar xz
# unpacks to winnow-cuda/; winnow-cuda/run.sh there tests and measures.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:?usage: cuda_bundle.sh FOLDER}
build=build/cuda
tests=(
  "$build/tests/kernels/cuda_backend_test"
  "$build/tests/kernels/decode_attention_test"
  "$build/tests/engine/model/golden_test"
  "$build/tests/engine/eval/demo_perplexity_test"
)
model=$(scripts/fetch_model.sh)

mkdir -p "$folder"
staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
bundle=$staging/winnow-cuda
mkdir -p "$bundle"/{bin,lib,tests/golden,models}

benchmark=$build/loadtest/gpu/decode_attention_benchmark
for program in "$build/winnow" "${tests[@]}" "$benchmark"; do
  strip -o "$bundle/bin/$(basename "$program")" "$program"
done
# All shared libraries but the C library's own, which belong to the loader of the other machine.
ldd "$build/winnow" "${tests[@]}" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
  grep -vE '/(libc|libm|libdl|librt|libpthread|ld-linux[^/]*)\.so' |
  xargs -I{} cp -L {} "$bundle/lib/"
cp tests/golden/logits_smollm2.* "$bundle/tests/golden/"
cp models/*.json "$bundle/models/"
cp "$model" "$bundle/models/"
cp scripts/cuda_bundle_run.sh "$bundle/run.sh"
cp loadtest/gpu/{sdpa_baseline,synthetic_gguf}.py "$bundle/"

rm -f "$folder"/part-*
tar cz -C "$staging" winnow-cuda | split -b 55M - "$folder/part-"
ls -l "$folder"

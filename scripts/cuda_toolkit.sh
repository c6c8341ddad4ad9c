#!/usr/bin/env bash
# Prints the root of a CUDA toolkit: that of nvcc on the PATH if it is 12.4 or later, else one that
# is put together from NVIDIA's packages on PyPI, once, in the cache. No GPU and no driver are
# needed.
set -euo pipefail

least=12.4
if nvcc=$(command -v nvcc); then
  found=$("$nvcc" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
  if [[ "$(printf '%s\n' "$least" "$found" | sort -V | head -n 1)" == "$least" ]]; then
    dirname "$(dirname "$(readlink -f "$nvcc")")"
    exit 0
  fi
fi

folder=${XDG_CACHE_HOME:-$HOME/.cache}/winnow/cuda-13.0
root=$folder/nvidia/cu13
if [[ -e "$folder/complete" ]]; then
  echo "$root"
  exit 0
fi

python3 -m pip install --quiet --no-deps --only-binary=:all: --upgrade --target "$folder" \
  nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
  nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 nvidia-cublas==13.1.0.3 >&2

# The packages share the layout of an installed toolkit but for these links.
ln -sfn lib "$root/lib64"
for library in cudart cublas cublasLt; do
  ln -sfn "lib$library.so.13" "$root/lib/lib$library.so"
done
touch "$folder/complete"
echo "$root"

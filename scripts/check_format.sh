#!/usr/bin/env bash
# Fails when a tracked C++ or CUDA file is not formatted as .clang-format says. --fix formats them.
set -euo pipefail
cd "$(dirname "$0")/.."

mode=(--dry-run --Werror)
if [[ "${1:-}" == --fix ]]; then mode=(-i); fi

mapfile -t files < <(git ls-files '*.h' '*.cc' '*.cu' '*.cuh')
clang-format "${mode[@]}" "${files[@]}"
echo "format: ${#files[@]} files, $(clang-format --version)"

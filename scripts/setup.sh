#!/usr/bin/env bash
# Installs what is missing of the packages in scripts/packages: setup.sh [LIST...], by default all
# lists. Does nothing, and needs no root, when everything is there.
set -euo pipefail
cd "$(dirname "$0")/packages"

if [[ $# -eq 0 ]]; then set -- build run fetch test; fi

if ! command -v apt-get >/dev/null; then
  echo "setup: no apt-get here; going on in the hope that equivalents of scripts/packages/{$(IFS=,; echo "$*")}.txt are installed" >&2
  exit 0
fi

is_installed() {
  [[ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null)" == ii* ]]
}

# One line per package that is missing: its alternative names.
missing() {
  local line name
  sed -e 's/#.*//' "${@/%/.txt}" | while read -r line; do
    [[ -n "$line" ]] || continue
    for name in ${line//|/ }; do
      if is_installed "$name"; then continue 2; fi
    done
    echo "$line"
  done
}

mapfile -t lines < <(missing "$@")
if [[ ${#lines[@]} -eq 0 ]]; then
  echo "setup: all packages are installed"
  exit 0
fi

run=(env DEBIAN_FRONTEND=noninteractive)
if [[ $EUID -ne 0 ]]; then
  if ! command -v sudo >/dev/null; then
    echo "setup: need root or sudo to install: ${lines[*]}" >&2
    exit 1
  fi
  run=(sudo "${run[@]}")
fi

echo "setup: ${run[*]} apt-get update"
"${run[@]}" apt-get update -qq

names=()
for line in "${lines[@]}"; do
  known=""
  for name in ${line//|/ }; do
    if [[ -n "$(apt-cache show --no-all-versions "$name" 2>/dev/null)" ]]; then known=$name; break; fi
  done
  if [[ -z "$known" ]]; then
    echo "setup: this distribution has no package named $line (supported: Debian 12, Ubuntu 24.04)" >&2
    exit 1
  fi
  names+=("$known")
done

echo "setup: ${run[*]} apt-get install --no-install-recommends ${names[*]}"
"${run[@]}" apt-get install -y -qq --no-install-recommends "${names[@]}"

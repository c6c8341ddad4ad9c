#!/usr/bin/env bash
# Proves that a fresh clone works on a fresh Debian 12: makes a minimal system with debootstrap,
# clones this repository's HEAD into it, runs commands there, removes it.
#   scripts/check_bare_debian.sh [COMMAND]      default: make demo && make test
# Needs root and the package debootstrap (scripts/debian_root.sh).
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/debian_root.sh
command=${1:-make demo && make test}
enter_namespaces "scripts/$(basename "$0")" "$@"
root=$workspace/root

make_root "$root"
# What somebody has who can clone and type make.
inside "$root" "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends git make ca-certificates"
git clone --quiet --no-local "$PWD" "$root/srv/winnow"
begin=$SECONDS
inside "$root" "cd /srv/winnow && $command"
echo "check_bare_debian: '$command' passed on a fresh Debian 12 in $((SECONDS - begin)) s"

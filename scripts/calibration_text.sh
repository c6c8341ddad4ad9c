#!/usr/bin/env bash
# Prints the path of the text that the demo model's label file was calibrated on: the paragraphs of
# "The Debian Administrator's Handbook" in reading order, from the Debian package of that name and
# version (GPL-2+ or CC BY-SA 3.0), fetched once with apt and checked. The path alone goes to stdout.
set -euo pipefail
cd "$(dirname "$0")"

package=debian-handbook
version=11.20220922
sha256=351733a1a4144fb3d92b69ff40397602c4711a4920c2d6527c3c82a9f4014aad
cache=${WINNOW_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/winnow}
text=$cache/$package-$version.txt

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

echo "calibration_text: apt-get download $package=$version (35 MB)" >&2
(cd "$temporary" && apt-get download -qq "$package=$version") >/dev/null 2>&1 ||
  fail "could not download $package=$version (apt-get update, then apt-get download $package=$version shows why)"
dpkg-deb -x "$temporary"/*.deb "$temporary"
python3 handbook_text.py "$temporary/usr/share/doc/$package/html/en-US" > "$temporary/text"
echo "$sha256  $temporary/text" | sha256sum --check --status ||
  fail "$package=$version gives a text with another SHA-256 than $sha256; not using it"
mv "$temporary/text" "$text"
echo "$text"

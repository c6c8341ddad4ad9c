#!/usr/bin/env bash
# Builds the stages of a Dockerfile without a container engine, in systems made with debootstrap,
# and starts the server as the image would: as its user, on a read-only root file system, asked by
# its health check.
#   scripts/check_image.sh [DOCKERFILE]      default: docker/Dockerfile
# Builds this repository's HEAD. Needs root and the package debootstrap (scripts/debian_root.sh).
#
# Knows the instructions that our Dockerfiles use: FROM a Debian image, WORKDIR, COPY, RUN, ENV, and
# for the start USER, HEALTHCHECK, ENTRYPOINT and CMD. What it doesn't know is an error.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/debian_root.sh
dockerfile=${1:-docker/Dockerfile}
enter_namespaces "scripts/$(basename "$0")" "$@"
context=$workspace/context
stages=$workspace/stages
declare -A start=()

# .dockerignore leaves out everything but the paths that it names after a `!`.
mkdir "$context"
mapfile -t paths < <(sed -n 's/^!//p' .dockerignore)
git archive HEAD "${paths[@]}" | tar x -C "$context"

# copy [--from=STAGE] SOURCE... TARGET: as COPY does, from the context or a stage.
copy() {
  local from=$context source target
  if [[ "$1" == --from=* ]]; then from=$stages/${1#--from=}; shift; fi
  target=${!#}
  [[ "$target" == /* ]] || target=$directory/$target
  [[ "${!#}" == */ || "${!#}" == . || $# -gt 2 ]] && mkdir -p "$root$target"
  for source in "${@:1:$#-1}"; do
    if [[ -d "$from/$source" ]]; then cp -a "$from/$source/." "$root$target"; else cp -a "$from/$source" "$root$target"; fi
  done
}

# The words of a JSON array, one a line.
words() { python3 -c 'import json, sys; print("\n".join(json.loads(sys.argv[1])))' "$1"; }

instruction() {
  local name=$1 rest=$2
  case $name in
    ARG | LABEL | EXPOSE) ;;
    FROM)
      root=$stages/${rest##* }
      directory=/
      environment=""
      echo "check_image: stage ${rest##* }" >&2
      cp -a "$stages/debian" "$root"
      ;;
    WORKDIR) directory=$rest; mkdir -p "$root$rest" ;;
    ENV) environment+="export $rest; " ;;
    COPY) eval "copy $rest" ;;
    RUN)
      echo "check_image: RUN $rest" >&2
      inside "$root" "$environment cd $directory && $rest"
      ;;
    USER) start[user]=$rest ;;
    HEALTHCHECK) start[health]=${rest#*CMD } ;;
    ENTRYPOINT) start[entrypoint]=$rest ;;
    CMD) start[command]=$rest ;;
    *) echo "check_image: $dockerfile has an instruction that this script does not know: $name" >&2; exit 1 ;;
  esac
}

mkdir -p "$stages"
make_root "$stages/debian"
# Instructions, one a line: comments left out, continued lines joined.
while read -r name rest <&3; do
  [[ -z "$name" ]] || instruction "$name" "$rest"
done 3< <(git show "HEAD:$dockerfile" | sed -e '/^#/d' | sed -e ':a' -e '/\\$/N; s/\\\n *//; ta')
umount -R "$root/dev" "$root/proc"

# The image's root file system, read-only, and what a deployment mounts: the config file, and a
# model.
model=$(scripts/fetch_model.sh)
mkdir -p "$workspace/config" "$root/etc/winnow" "$root/models"
cat >"$workspace/config/winnow.conf" <<CONFIG
model: /models/$(basename "$model")
label-file: /usr/share/winnow/labels/smollm2-135m-instruct.labels.json
CONFIG
echo "check_image: $(du -sh "$root" | cut -f 1) in all, $(du -sh "$stages/debian" | cut -f 1) of it the base"
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind "$workspace/config" "$root/etc/winnow"
mount --bind "$(dirname "$model")" "$root/models"
mount -o remount,ro,bind "$root"

mapfile -t entrypoint < <(words "${start[entrypoint]}")
mapfile -t command < <(words "${start[command]}")
mapfile -t health < <(words "${start[health]}")
as_user=(chroot "--userspec=${start[user]}" --groups= "$root")

serve() {
  local server attempt
  ip link set lo up
  "${as_user[@]}" "${entrypoint[@]}" "${command[@]}" &
  server=$!
  for ((attempt = 0; attempt < 300; ++attempt)); do
    if "${as_user[@]}" "${health[@]}" 2>/dev/null; then break; fi
    kill -0 "$server"
    sleep 0.2
  done
  "${as_user[@]}" "${health[@]}"
  "${as_user[@]}" "${entrypoint[@]}" generate --prompt "The capital of France is" --max-tokens 8 --temperature 0
  if "${as_user[@]}" /bin/sh -c "echo >/usr/local/bin/winnow || echo >/file" 2>/dev/null; then
    echo "check_image: the root file system can be written" >&2
    return 1
  fi
  kill -TERM "$server"
  wait "$server"
}
# In a network of its own, so that its ports are free.
unshare --net bash -euc "$(declare -p entrypoint command health as_user); $(declare -f serve); serve"
echo "check_image: $dockerfile builds, serves as user ${start[user]} on a read-only root, and drains"

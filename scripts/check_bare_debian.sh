#!/usr/bin/env bash
# Proves that a fresh clone works on a fresh Debian 12: makes a minimal system with debootstrap, clones
# this repository's HEAD into it, runs commands there, removes it.
#   scripts/check_bare_debian.sh [COMMAND]      default: make demo && make test
# Needs root and the package debootstrap. MIRROR names a Debian mirror; by default the host's own,
# with the host's settings for apt and pip, so that it works behind proxies and mirrors too.
set -euo pipefail
cd "$(dirname "$0")/.."
repository=$PWD
command=${1:-make demo && make test}
suite=bookworm

if [[ $EUID -ne 0 ]]; then
  echo "check_bare_debian: needs root (debootstrap, chroot)" >&2
  exit 1
fi
if ! command -v debootstrap >/dev/null; then
  echo "check_bare_debian: needs debootstrap (apt-get install debootstrap)" >&2
  exit 1
fi

# Mounts live in a mount namespace of their own and processes in a PID namespace, so that both vanish
# with the command, whatever happens; what is left to remove are plain files.
if [[ -z "${WINNOW_BARE_ROOT:-}" ]]; then
  root=$(mktemp -d "${TMPDIR:-/var/tmp}/winnow-bare.XXXXXX")
  trap 'rm -rf --one-file-system "$root"' EXIT
  chmod 755 "$root"  # apt downloads as a user of its own
  WINNOW_BARE_ROOT=$root unshare --mount --pid --fork --kill-child "$0" "$@"
  exit
fi
root=$WINNOW_BARE_ROOT

# The host's package sources of the suite, as sources.list lines.
sources() {
  if [[ -n "${MIRROR:-}" ]]; then
    echo "deb $MIRROR $suite main"
  else
    apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' \
      'Created-By: Packages' 'Origin: Debian' | grep " $suite" | sort -u
  fi
}
mirror=${MIRROR:-$(sources | awk -v suite="$suite" '$3 == suite {print $2; exit}')}
if [[ -z "$mirror" ]]; then
  echo "check_bare_debian: this host has no source of Debian $suite; set MIRROR" >&2
  exit 1
fi

debootstrap --variant=minbase "$suite" "$root" "$mirror" >"$root.log" 2>&1 ||
  { tail -n 20 "$root.log" >&2; exit 1; }
rm -f "$root.log"

sources >"$root/etc/apt/sources.list"
cp -r /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/"
cp -r /etc/apt/auth.conf.d/. "$root/etc/apt/auth.conf.d/" 2>/dev/null || true
for file in /etc/apt/apt.conf /etc/pip.conf /etc/resolv.conf /etc/hosts; do
  if [[ -e "$file" ]]; then cp -L "$file" "$root$file"; fi
done
# The host's certificate authorities, and the settings that lead to them. The bundle is copied under
# a name of its own: installing ca-certificates in there writes the usual one anew.
if [[ -d /usr/local/share/ca-certificates ]]; then
  cp -rL /usr/local/share/ca-certificates "$root/usr/local/share/"
fi
settings=(HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8)
if [[ -r /etc/ssl/certs/ca-certificates.crt ]]; then
  cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/host-ca.crt"
  settings+=({SSL_CERT_FILE,PIP_CERT,REQUESTS_CA_BUNDLE,CURL_CA_BUNDLE}=/etc/host-ca.crt)
fi
for name in {http,https,no,all}_proxy {HTTP,HTTPS,NO,ALL}_PROXY PIP_INDEX_URL PIP_EXTRA_INDEX_URL \
    PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT MODEL; do
  if [[ -n "${!name:-}" ]]; then settings+=("$name=${!name}"); fi
done

mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"

inside() {
  chroot "$root" /usr/bin/env -i "${settings[@]}" /bin/bash -c "$1"
}

# What somebody has who can clone and type make.
inside "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends git make ca-certificates"
git clone --quiet --no-local "$repository" "$root/srv/winnow"
begin=$SECONDS
inside "cd /srv/winnow && $command"
echo "check_bare_debian: '$command' passed on a fresh Debian 12 in $((SECONDS - begin)) s"

# Minimal Debian 12 systems in folders, to be sourced: needs root and the package debootstrap.
# MIRROR names a Debian mirror; by default the host's own, with the host's settings for apt and pip,
# so that it works behind proxies and mirrors too.
#
#   enter_namespaces "$0" "$@"    first: runs the script again where mounts and processes vanish with it;
#                                 sets $workspace, a folder that vanishes too
#   make_root DIR                 debootstraps DIR
#   inside DIR COMMAND            runs a shell command in it, as root
# shellcheck shell=bash
suite=bookworm

enter_namespaces() {
  local tool
  if [[ $EUID -ne 0 ]]; then
    echo "$(basename "$1"): needs root (debootstrap, chroot)" >&2
    exit 1
  fi
  for tool in debootstrap unshare; do
    if ! command -v "$tool" >/dev/null; then
      echo "$(basename "$1"): needs $tool (apt-get install $tool)" >&2
      exit 1
    fi
  done
  # Mounts live in a mount namespace of their own and processes in a PID namespace, so that both
  # vanish with the command, whatever happens; what is left to remove are plain files.
  if [[ -z "${WINNOW_WORKSPACE:-}" ]]; then
    workspace=$(mktemp -d "${TMPDIR:-/var/tmp}/winnow-debian.XXXXXX")
    trap 'rm -rf --one-file-system "$workspace"' EXIT
    WINNOW_WORKSPACE=$workspace unshare --mount --pid --fork --kill-child "$@"
    exit
  fi
  workspace=$WINNOW_WORKSPACE
}

# The host's package sources of the suite, as sources.list lines.
sources() {
  if [[ -n "${MIRROR:-}" ]]; then
    echo "deb $MIRROR $suite main"
  else
    apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' \
      'Created-By: Packages' 'Origin: Debian' | grep " $suite" | sort -u
  fi
}

make_root() {
  local root=$1 mirror file
  mirror=${MIRROR:-$(sources | awk -v suite="$suite" '$3 == suite {print $2; exit}')}
  if [[ -z "$mirror" ]]; then
    echo "debian_root: this host has no source of Debian $suite; set MIRROR" >&2
    return 1
  fi
  mkdir -p "$root"
  chmod 755 "$root"  # apt downloads as a user of its own
  debootstrap --variant=minbase "$suite" "$root" "$mirror" >"$root.log" 2>&1 ||
    { tail -n 20 "$root.log" >&2; return 1; }
  rm -f "$root.log"

  sources >"$root/etc/apt/sources.list"
  cp -r /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/"
  cp -r /etc/apt/auth.conf.d/. "$root/etc/apt/auth.conf.d/" 2>/dev/null || true
  for file in /etc/apt/apt.conf /etc/pip.conf /etc/resolv.conf /etc/hosts; do
    if [[ -e "$file" ]]; then cp -L "$file" "$root$file"; fi
  done
  # The host's certificate authorities, and the settings that lead to them. The bundle is copied
  # under a name of its own: installing ca-certificates in there writes the usual one anew.
  if [[ -d /usr/local/share/ca-certificates ]]; then
    cp -rL /usr/local/share/ca-certificates "$root/usr/local/share/"
  fi
  if [[ -r /etc/ssl/certs/ca-certificates.crt ]]; then
    cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/host-ca.crt"
  fi
}

inside() {
  local root=$1 name
  local settings=(HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8)
  if [[ -e "$root/etc/host-ca.crt" ]]; then
    settings+=({SSL_CERT_FILE,PIP_CERT,REQUESTS_CA_BUNDLE,CURL_CA_BUNDLE,CARGO_HTTP_CAINFO}=/etc/host-ca.crt)
  fi
  for name in {http,https,no,all}_proxy {HTTP,HTTPS,NO,ALL}_PROXY PIP_INDEX_URL PIP_EXTRA_INDEX_URL \
      PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT MODEL; do
    if [[ -n "${!name:-}" ]]; then settings+=("$name=${!name}"); fi
  done
  mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
  mountpoint -q "$root/dev" || mount --rbind /dev "$root/dev"
  chroot "$root" /usr/bin/env -i "${settings[@]}" /bin/bash -c "$2"
}

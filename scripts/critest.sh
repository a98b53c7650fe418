#!/usr/bin/env bash
# Kubernetes' conformance tests for container runtimes (critest of kubernetes-sigs/cri-tools) against the built daemon, on this
# machine, in directories of their own.
#
#   KNARR_CRITEST_REGISTRY=127.0.0.1:5000 scripts/critest.sh [FLAGS…]
#
# Needs root, critest and crictl on PATH. The registry, where one is named, stands for every other and has critest's images; without
# it they come from where they are. FLAGS are critest's, such as --ginkgo.focus=NRI. Programs are those of KNARR_BIN_DIR, else of
# target/release. What is known to fail is in critest.known: a failure that is not there fails this script, and so does a spec
# that is there and passes. Benchmarks are left out.
set -euo pipefail
cd "$(dirname "$0")/.."
known=$PWD/scripts/critest.known
programs=${KNARR_BIN_DIR:-target/release}
skip() { echo "skipped: $1"; exit 0; }

command -v critest >/dev/null && command -v crictl >/dev/null || skip "critest and crictl are not on PATH"
command -v jq >/dev/null || skip "jq is missing"
[ "$(id -u)" = 0 ] || skip "containers need root"

work=$(mktemp -d)
daemon=
clear_away() {
  [ -z "$daemon" ] || { kill "$daemon" && wait "$daemon"; } || true
  ip link delete kncritest0 2>/dev/null || true
  rm -rf --one-file-system "$work"
}
trap clear_away EXIT

socket=unix://$work/knarr.sock
cat >"$work/knarr.toml" <<TOML
listen = "$socket"
root = "$work/root"
state = "$work/state"
cni_conf_dir = "$work/net.d"
registry_config_dir = "$work/certs.d"
[network]
builtin = true
bridge = "kncritest0"
subnets = ["10.217.0.0/24"]
[nri]
socket = "$work/nri.sock"
plugin_dir = "$work/nri-plugins"
conf_dir = "$work/nri-conf"
TOML
if [ -n "${KNARR_CRITEST_REGISTRY:-}" ]; then
  mkdir -p "$work/certs.d/_default"
  printf 'server = "http://%s"\n[host."http://%s"]\ncapabilities = ["pull", "resolve"]\n' \
    "$KNARR_CRITEST_REGISTRY" "$KNARR_CRITEST_REGISTRY" >"$work/certs.d/_default/hosts.toml"
fi
"$programs/knarr" serve --config "$work/knarr.toml" >"$work/serving" 2>"$work/daemon.log" &
daemon=$!
until grep -q "serving on" "$work/serving"; do
  kill -0 "$daemon" 2>/dev/null || { cat "$work/daemon.log"; exit 1; }
  sleep 0.1
done

echo "runtime-endpoint: $socket" >"$work/crictl.yaml"
critest --config "$work/crictl.yaml" --runtime-endpoint "$socket" --image-endpoint "$socket" --nri-socket "$work/nri.sock" \
  --ginkgo.no-color --ginkgo.timeout=110m --ginkgo.skip=benchmark --ginkgo.json-report="$work/report.json" "$@" >"$work/critest.log" 2>&1 || true
[ -f "$work/report.json" ] || { cat "$work/critest.log"; echo "critest made no report"; exit 1; }

# A line for each spec that ran or was skipped by itself: state, name, why.
jq -r '.[].SpecReports[] | select(.LeafNodeType == "It" and (.State != "skipped" or .Failure != null))
  | [.State, ((.ContainerHierarchyTexts // []) + [.LeafNodeText] | join(" ")), (.Failure.Message // "" | split("\n")[0])]
  | @tsv' "$work/report.json" | sort >"$work/specs"

bad=0
while IFS=$'\t' read -r state name why; do
  reason=$(awk -F'\t' -v name="$name" '$1 == name { print $2 }' "$known")
  case $state in
    passed)
      case $reason in
        "" | "with stand-ins "*) ;;
        *) echo "PASSES  $name: take it out of $(basename "$known")"; bad=1 ;;
      esac
      ;;
    skipped) echo "skipped $name: $why" ;;
    *)
      if [ -n "$reason" ]; then
        echo "known   $name: $reason"
      else
        echo "FAILED  $name: $why"
        bad=1
      fi
      ;;
  esac
done <"$work/specs"
[ "${KNARR_CRITEST_LIST:-}" != all ] || sed -n 's/^passed\t\(.*\)\t$/passed  \1/p' "$work/specs"
counts=$(cut -f1 "$work/specs" | sort | uniq -c | awk '{ printf "%s%s %s", separator, $1, $2; separator = ", " }')
echo "$counts, of $(jq '.[0].PreRunStats.TotalSpecs' "$work/report.json") specs"
if [ $bad != 0 ]; then
  mkdir -p target/critest
  cp "$work"/{critest,daemon}.log "$work/report.json" target/critest/
  echo "see target/critest"
fi
exit $bad

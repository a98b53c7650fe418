#!/usr/bin/env bash
# The OCI community's validation suite against the example `oci`.
#
#   OCI_RUNTIME_TOOLS=<checkout of github.com/opencontainers/runtime-tools> scripts/oci-conformance.sh [TEST…]
#
# Needs root and Go. Last seen with the suite's commit 5e639034dcdc (December 2025). RUNTIME=<path> points it at another
# runtime, to see what the suite itself says of that one. What is known to fail is in oci-conformance.known: a failure
# that is not there fails this script, and so does a test that is there and passes.
set -uo pipefail
cd "$(dirname "$0")/.."
project=$PWD
known=$project/scripts/oci-conformance.known
skip() { echo "skipped: $1"; exit 0; }

suite=${OCI_RUNTIME_TOOLS:-}
[ -n "$suite" ] || skip "OCI_RUNTIME_TOOLS names no checkout of github.com/opencontainers/runtime-tools"
[ -d "$suite/validation" ] || skip "$suite has no validation suite"
command -v go >/dev/null || skip "Go is missing"
[ "$(id -u)" = 0 ] || skip "containers need root"
case $(uname -m) in x86_64) arch=amd64 ;; *) skip "the suite has no root filesystem for $(uname -m)" ;; esac
suite=$(cd "$suite" && pwd)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/run"
cp "$suite/rootfs-$arch.tar.gz" "$work/run/"
echo "building the suite"
(cd "$suite" && export GOFLAGS=-mod=mod &&
  CGO_ENABLED=0 go build -tags "netgo osusergo" -o "$work/run/runtimetest" ./cmd/runtimetest &&
  for test in validation/*/; do
    [ "$test" = validation/util/ ] || go build -o "$work/$(basename "$test").t" "./$test" || exit 1
  done) || { echo "the suite can't be built"; exit 1; }

runtime=${RUNTIME:-}
if [ -z "$runtime" ]; then
  cargo build --locked -q -p runtime --example oci || exit 1
  printf '#!/bin/sh\nexec "%s" --root "%s" "$@"\n' "${CARGO_TARGET_DIR:-$project/target}/debug/examples/oci" "$work/state" >"$work/runtime"
  chmod +x "$work/runtime"
  runtime=$work/runtime
fi

wanted=("$@")
[ ${#wanted[@]} -gt 0 ] || mapfile -t wanted < <(cd "$work" && printf '%s\n' *.t | sed 's/\.t$//')
bad=0
for test in "${wanted[@]}"; do
  # A test that hangs has failed.
  (cd "$work/run" && RUNTIME=$runtime timeout -k 5 120 "$work/$test.t" >"$work/$test.tap" 2>"$work/$test.err")
  code=$?
  passed=$(grep -c '^ok' "$work/$test.tap")
  failed=$(grep -c '^not ok' "$work/$test.tap")
  entry=$(grep -P "^$test\t" "$known" | cut -f2-)
  if [ $code = 0 ] && [ "$failed" = 0 ]; then
    case $entry in
      "" | host*) echo "ok      $test ($passed)" ;;
      *) echo "PASSES  $test: take it out of $(basename "$known")"; bad=1 ;;
    esac
  elif [ -n "$entry" ] && [ -z "${RUNTIME:-}" ]; then
    echo "known   $test: ${entry#*$'\t'}"
  else
    echo "FAILED  $test ($failed of $((passed + failed)), exit code $code)"
    grep -A8 '^not ok' "$work/$test.tap" | head -40
    head -c 2000 "$work/$test.err"
    bad=1
  fi
done
exit $bad

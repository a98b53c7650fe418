#!/usr/bin/env bash
# setup.sh build|deb|check|test|bench: installs the Debian packages that building, packaging, checking, testing or the
# comparison needs, for the last two also what a client in Go is built with. Prints only what it does.
set -euo pipefail
build=(gcc libc6-dev make)
# the package's control file says which versions of libraries the programs need
deb=(dpkg-dev)
# the k8s-cri crate, the independent client of the tests, compiles its contract with protoc
check=(protobuf-compiler)
# what tests beside the code look at networks with, in namespaces of their own
check+=(conntrack iproute2 iptables nftables)
test=(btrfs-progs busybox-static containernetworking-plugins curl docker-registry erofs-utils jq runc crun skopeo
  umoci xfsprogs)
# today's runc, the peer of the comparison, is built as a Go module
bench=(libseccomp-dev pkg-config)
# Any release will do: what it lacks is fetched as a module (go.sh).
command -v go >/dev/null || test+=(golang-go)
case "${1:-}" in
  build) want=("${build[@]}") ;;
  deb) want=("${build[@]}" "${deb[@]}") ;;
  check) want=("${build[@]}" "${check[@]}") ;;
  test) want=("${build[@]}" "${deb[@]}" "${check[@]}" "${test[@]}") ;;
  bench) want=("${build[@]}" "${deb[@]}" "${check[@]}" "${test[@]}" "${bench[@]}") ;;
  *) echo "usage: setup.sh build|deb|check|test|bench" >&2; exit 2 ;;
esac
command -v dpkg-query >/dev/null || { echo "setup: not a Debian system; needed are: ${want[*]}" >&2; exit 0; }
missing=()
for p in "${want[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "setup: installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; }
fi
[[ $1 != test && $1 != bench ]] || "$(dirname "$0")/go.sh" install

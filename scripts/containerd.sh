#!/usr/bin/env bash
# Installs the containerd that we are compared with, as a Go module where Go is at hand, and prints its directory.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
peers=$PWD/target/peers/bin
version=v2.4.2
if [ ! -x "$peers/containerd" ] && command -v go >/dev/null; then
  mkdir -p "$peers"
  module=github.com/containerd/containerd/v2/cmd
  GOBIN=$peers CGO_ENABLED=0 go install "$module/containerd@$version" "$module/containerd-shim-runc-v2@$version" >&2
fi
echo "$peers"

#!/usr/bin/env bash
# Installs the containerd that we are compared with, as a Go module where Go is at hand, and today's runc beside it where
# libseccomp's headers are; prints their directory. A crun that somebody lays there goes before the system's.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
peers=$PWD/target/peers/bin
version=v2.4.2
runc=v1.5.1
if [ ! -x "$peers/containerd" ] && command -v go >/dev/null; then
  mkdir -p "$peers"
  module=github.com/containerd/containerd/v2/cmd
  GOBIN=$peers CGO_ENABLED=0 go install "$module/containerd@$version" "$module/containerd-shim-runc-v2@$version" >&2
fi
if [ ! -x "$peers/runc" ] && command -v go >/dev/null && pkg-config --exists libseccomp 2>/dev/null; then
  GOBIN=$peers CGO_ENABLED=1 go install -tags seccomp "github.com/opencontainers/runc@$runc" >&2
fi
echo "$peers"

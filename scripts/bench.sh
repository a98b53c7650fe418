#!/usr/bin/env bash
# Side by side with containerd: installs it as a Go module where Go is at hand, then measures both in turn.
set -euo pipefail
cd "$(dirname "$0")/.."
peers=$PWD/target/peers/bin
version=v2.4.2
if [ ! -x "$peers/containerd" ] && command -v go >/dev/null; then
  mkdir -p "$peers"
  module=github.com/containerd/containerd/v2/cmd
  GOBIN=$peers CGO_ENABLED=0 go install "$module/containerd@$version" "$module/containerd-shim-runc-v2@$version"
fi
cargo build --release --locked -q -p runtime --example floor
# A newer runc or crun laid beside containerd goes before the system's.
PATH=$peers:$PATH cargo run --release --locked -q -p e2e --bin bench -- "$peers" target/release/examples/floor

#!/usr/bin/env bash
# Side by side with containerd: installs it where that can be done, then measures both in turn.
set -euo pipefail
cd "$(dirname "$0")/.."
peers=$(scripts/containerd.sh)
cargo build --release --locked -q -p runtime --example floor
# A newer runc or crun laid beside containerd goes before the system's.
PATH=$peers:$PATH cargo run --release --locked -q -p e2e --bin bench -- "$peers" target/release/examples/floor

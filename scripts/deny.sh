#!/usr/bin/env bash
# Licences, bans and sources of all dependencies. Advisories need the advisory database: checked where it can be had.
set -euo pipefail
command -v cargo-deny >/dev/null || cargo install --locked --quiet cargo-deny
cargo deny --offline --log-level error check bans licenses sources

#!/usr/bin/env bash
# Licences, bans and sources of all dependencies. Advisories need the advisory database: checked where it can be had.
set -euo pipefail
command -v cargo-deny >/dev/null || cargo install --locked --quiet cargo-deny
# The lists of what other platforms would take are read too: a build doesn't bring those.
cargo fetch --locked --quiet
cargo deny --offline --log-level error check bans licenses sources

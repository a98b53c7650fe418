#!/usr/bin/env bash
# Licences, bans, sources and advisories of all dependencies, those of the fuzzers included.
#
# Advisories are RustSec's, from a clone of its database in the directory ADVISORY_DB where that is set (a machine without a way
# out), else fetched. Where they can't be had that is said as skipped, and is a failure only with ADVISORIES=required: the rest is
# checked anywhere.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v cargo-deny >/dev/null || cargo install --locked --quiet cargo-deny
# The lists of what other platforms would take are read too: a build doesn't bring those.
cargo fetch --locked --quiet
cargo deny --offline --log-level error check bans licenses sources

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
database=${ADVISORY_DB:-$scratch/fetched}
if [[ -z ${ADVISORY_DB:-} ]] && ! git clone --quiet --depth 1 https://github.com/rustsec/advisory-db "$database" 2>"$scratch/log"; then
    echo "deny: advisories skipped: $(tail -1 "$scratch/log")"
    [[ ${ADVISORIES:-} != required ]]
    exit
fi
# cargo-deny looks for a clone that was fetched, below a name which it makes of the usual address.
clone=$scratch/databases/advisory-db-3157b0e258782691
git clone --quiet "$database" "$clone"
git -C "$clone" fetch --quiet
{ cat deny.toml; printf '\n[advisories]\ndb-path = "%s"\n' "$scratch/databases"; } >"$scratch/deny.toml"
for manifest in Cargo.toml crates/*/fuzz/Cargo.toml; do
    cargo deny --offline --log-level error --manifest-path "$manifest" --config "$scratch/deny.toml" check advisories
done
echo "deny: advisories up to $(git -C "$clone" log -1 --format=%cs)"

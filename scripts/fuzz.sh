#!/usr/bin/env bash
# Runs the fuzz targets one after the other, each for so many seconds: scripts/fuzz.sh [SECONDS [CRATE|CRATE/TARGET...]]
# Needs cargo-fuzz (cargo install cargo-fuzz) and a C++ compiler for libFuzzer; image-service/tree needs root. Findings are left
# in the crate's fuzz/artifacts, what was learnt in fuzz/corpus; neither is committed. There is no sanitizer: the code is safe
# Rust, and so a stable compiler will do.
set -euo pipefail
cd "$(dirname "$0")/../crates"
seconds=${1:-60}
shift || true
wanted=("$@")
[ ${#wanted[@]} -gt 0 ] || wanted=(streaming nri image-service runtime sandbox cni systemd)
# What only a nightly compiler is asked for otherwise: cargo-fuzz passes flags for coverage that are stable all the same.
export RUSTC_BOOTSTRAP=1
for want in "${wanted[@]}"; do
    pushd "${want%%/*}" >/dev/null
    targets=("${want#*/}")
    [[ $want == */* ]] || mapfile -t targets < <(cargo fuzz list)
    for target in "${targets[@]}"; do
        echo "== ${want%%/*}/$target, $seconds s"
        mkdir -p "fuzz/corpus/$target" "fuzz/seeds/$target"
        cargo fuzz run --sanitizer none "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
            -max_total_time="$seconds" -timeout=10 -rss_limit_mb=512 -malloc_limit_mb=64 -max_len=4096 -print_final_stats=1
    done
    popd >/dev/null
done

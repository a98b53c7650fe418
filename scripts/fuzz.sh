#!/usr/bin/env bash
# Runs the fuzz targets one after the other, each for so many seconds: scripts/fuzz.sh [SECONDS [TARGET...]]
# Needs cargo-fuzz (cargo install cargo-fuzz) and a C++ compiler for libFuzzer. Findings are left in fuzz/artifacts, what was
# learnt in fuzz/corpus; neither is committed. There is no sanitizer: the code is safe Rust, and so a stable compiler will do.
set -euo pipefail
cd "$(dirname "$0")/../crates/streaming"
seconds=${1:-60}
shift || true
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    mapfile -t targets < <(cargo fuzz list)
fi
# What only a nightly compiler is asked for otherwise: cargo-fuzz passes flags for coverage that are stable all the same.
export RUSTC_BOOTSTRAP=1
for target in "${targets[@]}"; do
    echo "== $target, $seconds s"
    mkdir -p "fuzz/corpus/$target"
    cargo fuzz run --sanitizer none "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=512 -malloc_limit_mb=64 -max_len=4096 -print_final_stats=1
done

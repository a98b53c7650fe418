#!/usr/bin/env bash
# Shows that the attack tests notice an attack: switches one defence off after another, in a scratch copy of the tree, and expects the
# tests that are named for it to fail, in the words of an attack that succeeded. Nothing of it is ever built into what is shipped.
#
# usage: prove.sh [NAME...]      names of naive/NAME.patch; all of them unless named
#
# A patch that does not apply any more, does not build, or is not noticed fails the script. Each says in its first lines what has to be
# built (`builds: supervisor`, which the daemon starts, or `builds: daemon` for both) and which tests have to fail (`test: …`).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../../.."
scratch=$PWD/target/naive
tree=$scratch/tree
export CARGO_TARGET_DIR=$scratch/target RUST_BACKTRACE=0
mkdir -p "$tree" "$scratch/bin"

say() { printf '%s\n' "$*"; }

# The tree as it is in the working directory. Unchanged files keep their times, so that only what a patch touches is built anew.
fresh_tree() {
    git ls-files -z | tar --null --files-from=- --create | tar --extract --directory="$tree"
}

build() {
    local static=(-C target-feature=+crt-static -C relocation-model=static)
    (
        cd "$tree"
        cargo rustc -q --locked -p runtime --features supervisor --bin knarr-supervisor \
            --target-dir "$scratch/target/static" -- "${static[@]}"
        if [[ $1 == daemon ]]; then cargo build -q --locked -p cri-server; fi
    ) 2>"$scratch/build.log" || { cat "$scratch/build.log"; return 1; }
    install -m 755 "$scratch/target/static/debug/knarr-supervisor" "$scratch/bin/"
    install -m 755 "$scratch/target/debug/knarr" "$scratch/bin/"
}

# The tests are those of the tree itself, not of the scratch copy.
attack() {
    env -u CARGO_TARGET_DIR KNARR_BIN_DIR="$scratch/bin" \
        cargo test -q --locked -p e2e --test attacks -- --exact "$1" --nocapture >"$scratch/test.log" 2>&1
}

prove() {
    local name=$1 patch=$here/naive/$1.patch test
    patch --silent --strip=1 --fuzz=0 --directory="$tree" <"$patch" || { say "FAILED: $name does not apply"; return 1; }
    build "$(sed -n 's/^builds: //p' "$patch")" || { say "FAILED: $name does not build"; return 1; }
    while read -r test; do
        if attack "$test"; then
            say "FAILED: $name is not noticed by $test"
            return 1
        fi
        local words
        words=$(grep -m1 -o 'the attack succeeded.*' "$scratch/test.log") ||
            { say "FAILED: $name: $test failed for another reason:"; tail -30 "$scratch/test.log"; return 1; }
        say "proven: $name: $test: ${words:0:160}"
    done < <(sed -n 's/^test: //p' "$patch")
}

names=("$@")
if ((${#names[@]} == 0)); then
    for patch in "$here"/naive/*.patch; do names+=("$(basename "$patch" .patch)"); done
fi
fresh_tree
build daemon
failed=0
for name in "${names[@]}"; do
    prove "$name" || failed=1
    fresh_tree
    # What was built from a patched tree is not to be taken for the next one's.
    sed -n 's/^+++ b\///p' "$here/naive/$name.patch" | while read -r file; do touch "$tree/$file"; done
done
exit "$failed"

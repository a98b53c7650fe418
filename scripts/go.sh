#!/usr/bin/env bash
# go.sh install|build PROGRAM|check|run DIRECTORY ARGUMENT...: Go for the tests' client (crates/e2e/client_go), and for
# other modules of the project. `install` makes sure of a release that can build all of them and of the client's modules:
# the one on PATH, or one that an older Go fetches as a module. `build` and `check` (format, vet) of the client, and `run`,
# which is `go ARGUMENT...` in a module's directory, fail with a reason where there is none.
set -euo pipefail
[ "${1:-}" != build ] || program=$(realpath -m "$2")
[ "${1:-}" != run ] || module=$(realpath "$2")
cd "$(dirname "$(readlink -f "$0")")/../crates/e2e"
module=${module:-$PWD/client_go}
# The newest that any of our modules needs.
needed=$(sed -n 's/^go //p' client_go/go.mod kube/go.mod kube/metrics-server/go.mod | sort -V | tail -1)
cd "$module"
# What is fetched. Before Go 1.21 there was no switching to newer releases, but they are modules like any other.
fetched=golang.org/toolchain@v0.0.1-go1.26.8
# The same for all: what is compiled once serves building and checking.
export GOTOOLCHAIN=local CGO_ENABLED=0 GOFLAGS="${GOFLAGS:-} -mod=readonly -trimpath"

# Whether a Go is new enough.
fits() {
  local has
  has=$(cd / && "$1" env GOVERSION 2>/dev/null) || return 1
  printf 'go%s\n%s\n' "$needed" "$has" | sort -V -C
}

# Where an older Go has put what it fetched.
toolchain() {
  (cd / && go env GOMODCACHE GOOS GOARCH) | {
    read -r cache && read -r os && read -r arch && echo "$cache/$fetched.$os-$arch"
  }
}

find_go() {
  if fits go; then echo go; return; fi
  command -v go >/dev/null || { echo "go.sh: Go is not on PATH" >&2; return 3; }
  local go
  go=$(toolchain)/bin/go
  fits "$go" || { echo "go.sh: Go is older than $needed, and no newer one is installed (make test-setup)" >&2; return 3; }
  echo "$go"
}

install() {
  if ! fits go && ! fits "$(toolchain)/bin/go"; then
    echo "setup: installing ${fetched##*-}"
    local directory
    directory=$(toolchain)
    (cd / && GOFLAGS= go mod download "$fetched.${directory##*.}")
    # A module's files are not executable.
    chmod -R a+x "$directory"/bin "$directory"/pkg/tool
  fi
  "$(find_go)" mod download
}

case ${1:-} in
  install) install ;;
  build) go=$(find_go) && "$go" build -ldflags '-s -w' -o "$program" . ;;
  run) go=$(find_go) && exec "$go" "${@:3}" ;;
  check)
    go=$(find_go)
    unformatted=$("$("$go" env GOROOT)/bin/gofmt" -l .)
    [ -z "$unformatted" ] || { echo "go.sh: gofmt: $unformatted" >&2; exit 1; }
    "$go" vet .
    ;;
  *) echo "usage: go.sh install|build PROGRAM|check|run DIRECTORY ARGUMENT..." >&2; exit 2 ;;
esac

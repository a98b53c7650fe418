# shellcheck shell=bash
# Shared by the scripts here: where built programs lie. To be sourced.

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
cache=${KNARR_KUBE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/knarr/kube}

fail() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

# The directory of the programs that `build` makes: another one as soon as anything they are made of changes.
programs_directory() {
  local version
  version=$(cd "$here" && cat build go.mod go.sum programs.go metrics-server/go.{mod,sum} | sha256sum | cut -c1-12)
  echo "$cache/$version"
}

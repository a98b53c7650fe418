# shellcheck shell=bash
# Shared by the scripts here: where the guest's image lies, and how they fail. To be sourced.

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
cache=${KNARR_GUEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/knarr/guest}

# Ends the script. 125 is what `boot` ends with when the guest failed and not the command in it.
fail() {
  echo "$(basename "$0"): $*" >&2
  exit 125
}

# The directory of the image that these scripts build: another one as soon as anything it is made of changes.
image_directory() {
  local version
  version=$(cd "$here" && cat build files/* | sha256sum | cut -c1-12)
  echo "$cache/$version"
}

# Says what keeps this machine from having a guest; nothing when it can have one.
obstacle() {
  if [ "$(uname -m)" != x86_64 ]; then
    echo "the guest is an x86-64 machine"
  elif [ "$(id -u)" != 0 ]; then
    echo "building the guest's image needs root"
  elif [ -f "$(image_directory)/root.ext4" ] && command -v qemu-system-x86_64 >/dev/null; then
    return
  elif ! command -v apt-get >/dev/null; then
    echo "the guest's image is built with Debian's apt"
  elif ! "$here/build" --reachable; then
    echo "no Debian mirror answers, and the image isn't built"
  fi
}

#!/bin/sh
# A CNI plugin as a vendor of an overlay would bring it: behind `bridge` in a chain, it makes the vxlan device that leads
# to the other node a port of the bridge, with the first pod, and takes it away with the last.
# Its own keys: bridge, device, vni, underlay (the interface that carries it), remote (the other node's address).
set -eu
config=$(cat)
of() { printf %s "$config" | jq -er "$1"; }
trap 'status=$?; [ $status = 0 ] || echo "{\"cniVersion\":\"1.0.0\",\"code\":100,\"msg\":\"vxlan: status $status\"}"' EXIT
[ "$CNI_COMMAND" != VERSION ] || { echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}'; exit; }
users=${0%/*}/vxlan.users
user=$users/$CNI_CONTAINERID-$CNI_IFNAME
exec 9>"$users.lock"
flock 9
case $CNI_COMMAND in
  ADD)
    device=$(of .device)
    if ! [ -d "$users" ]; then
      ip link add "$device" type vxlan id "$(of .vni)" dev "$(of .underlay)" remote "$(of .remote)" dstport 4789 >&2
      ip link set "$device" master "$(of .bridge)" up >&2
      mkdir "$users"
    fi
    : >"$user"
    of .prevResult ;;
  CHECK) ip link show "$(of .device)" >&2 && [ -e "$user" ] ;;
  DEL)
    rm -f "$user"
    if [ -d "$users" ] && rmdir "$users" 2>/dev/null; then ip link delete "$(of .device)" >&2; fi ;;
esac

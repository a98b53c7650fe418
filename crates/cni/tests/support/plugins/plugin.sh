#!/bin/sh
# A plugin of the tests, which goes by the name of its type.
#
# `link`, `rule` and `table` are scripted here: an address and a pair of interfaces, a routing rule, a table of nftables,
# so that what is left over is left in the kernel. Of any other type it runs Debian's, which speaks 1.0.0 at most: 1.1.0 is
# translated, and GC and STATUS are answered here.
#
# A file `orders/<type>` with the line `<verb> <before|after> <fault>` has it go wrong before or after the work is done,
# or `once-<before|after>`, when only the next time counts; `link` knows `during`. `calls` has a line for each call.
name=${0##*/}
home=${0%/bin/*}
IFS= read -r config
version=${config#*\"cniVersion\":\"}
version=${version%%\"*}
echo "$CNI_COMMAND $name" >> "$home/calls"

work() {
    case $name in
    link) link ;;
    rule) rule ;;
    table) table ;;
    *) debian ;;
    esac
}

debian() {
    case $CNI_COMMAND in GC | STATUS) return 0 ;; esac
    printf '%s' "$config" | sed 's/"cniVersion":"1.1.0"/"cniVersion":"1.0.0"/g' | "/usr/lib/cni/$name" > "$home/out.$$"
    status=$?
    out=$(sed "s/\"cniVersion\": \"1.0.0\"/\"cniVersion\": \"$version\"/" "$home/out.$$")
    rm -f "$home/out.$$"
    return $status
}

link() {
    pod=v$CNI_CONTAINERID
    case $CNI_COMMAND in
    ADD)
        # A lease is there with its owner or not at all, whenever we are killed.
        echo "$CNI_CONTAINERID" > "$home/of.$CNI_CONTAINERID"
        n=2
        until ln "$home/of.$CNI_CONTAINERID" "$home/leases/10.9.0.$n" 2>/dev/null; do
            n=$((n + 1))
            [ $n -lt 250 ] || refuse 11 'no address left' ''
        done
        ip link add "$pod" type veth peer name "$CNI_IFNAME" netns "$CNI_NETNS" || return 1
        case $when in during) go_wrong ;; esac
        nsenter --net="$CNI_NETNS" ip address add "10.9.0.$n/24" dev "$CNI_IFNAME" || return 1
        ip address add 10.9.0.1/32 peer "10.9.0.$n" dev "$pod" && ip link set "$pod" up || return 1
        out="{\"cniVersion\":\"$version\",\"interfaces\":[{\"name\":\"$pod\"},{\"name\":\"$CNI_IFNAME\",\"sandbox\":\"$CNI_NETNS\"}],\"ips\":[{\"address\":\"10.9.0.$n/24\",\"interface\":1}]}"
        ;;
    DEL)
        case $when in during) ip link delete "$pod" 2>/dev/null; go_wrong ;; esac
        free "$CNI_CONTAINERID"
        ;;
    CHECK) [ -e "/proc/sys/net/ipv4/conf/$pod" ] || refuse 100 "interface $pod is gone" "" ;;
    GC)
        for lease in "$home"/leases/*; do
            read -r owner < "$lease" || continue
            case $config in *"\"containerID\":\"$owner\""*) ;; *) free "$owner" ;; esac
        done 2>/dev/null
        ;;
    esac
    return 0
}

# Last the address: who gets it next must find nothing of its former owner.
free() {
    ip link delete "v$1" 2>/dev/null
    for lease in "$home"/leases/*; do
        read -r owner < "$lease" && [ "$owner" = "$1" ] && rm "$lease"
    done 2>/dev/null
}

rule() {
    priority=1${CNI_CONTAINERID##*[!0-9]}
    case $CNI_COMMAND in
    ADD) pass && ip rule add priority "$priority" from 10.9.0.0/24 lookup 1000 ;;
    DEL) while ip rule delete priority "$priority" 2>/dev/null; do :; done ;;
    esac
}

table() {
    case $CNI_COMMAND in
    ADD) pass && nft "add table ip of_$CNI_CONTAINERID; add chain ip of_$CNI_CONTAINERID c { type filter hook forward priority 0; }" ;;
    DEL) nft delete table ip "of_$CNI_CONTAINERID" 2>/dev/null || true ;;
    esac
}

pass() {
    out=${config#*\"prevResult\":}
    out=${out%,\"runtimeConfig\"*}
    out=${out%,\"type\"*}
}

refuse() {
    printf '{"cniVersion":"1.0.0","code":%s,"msg":"%s","details":"%s"}' "$1" "$2" "$3"
    exit 1
}

flood() {
    head -c 10485760 /dev/zero | tr '\0' x
}

# Those that come back change nothing about what the plugin does.
go_wrong() {
    case $fault in
    killed) kill -KILL $$ ;;
    hang)
        echo $$ >> "$home/pids"
        sleep 600
        ;;
    stubborn)
        trap '' TERM INT HUP
        echo $$ >> "$home/pids"
        while :; do sleep 600; done
        ;;
    grandchild)
        setsid sleep 600 &
        echo $! >> "$home/strays"
        echo $$ >> "$home/pids"
        sleep 600
        ;;
    keeps-pipes)
        setsid sleep 600 &
        echo $! >> "$home/strays"
        ;;
    pause)
        echo $$ >> "$home/pids"
        until [ -e "$home/go" ]; do sleep 0.02; done
        ;;
    slow) sleep 0.3 ;;
    flood) flood && exit 0 ;;
    noise) flood >&2 ;;
    garbage) echo 'what a day' && exit 0 ;;
    nothing) exit 0 ;;
    half) printf '{"cniVersion":"1.1.0","interfaces":[{"name":' && exit 0 ;;
    unknown-version) echo '{"cniVersion":"7.0.0","ips":[]}' && exit 0 ;;
    older | newer) ;;
    uninstall-rule)
        rm "$home/bin/rule"
        refuse 107 'out of leases' ''
        ;;
    error) refuse 107 'out of leases' 'the pool is dry since noon' ;;
    esac
}

# An older form has an address where the newer has a list of them.
other_version() {
    case $fault in
    older) out=$(printf '%s' "$out" | tr -d '\n' | sed 's/.*"address": *"\([^"]*\)".*/{"cniVersion":"0.2.0","ip4":{"ip":"\1"}}/') ;;
    newer) out=$(printf '%s' "$out" | sed 's/"cniVersion": *"[0-9.]*"/"cniVersion":"1.1.0","unheardOf":true/') ;;
    esac
}

when= fault= out=
if [ -e "$home/orders/$name" ]; then
    read -r verb when fault < "$home/orders/$name"
    if [ "$verb" != "$CNI_COMMAND" ]; then when= fault=; fi
    case $when in once-*) rm "$home/orders/$name" ;; esac
fi
case $when in *before) go_wrong ;; esac
work
status=$?
[ $status = 0 ] || { printf '%s' "$out"; exit $status; }
case $when in *after) go_wrong ;; esac
other_version
case $CNI_COMMAND in ADD) printf '%s' "$out" ;; esac
exit 0

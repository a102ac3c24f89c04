#!/bin/sh
# Networks between instances: the address that the host has chosen, on the interface with the chosen name. For guests
# whose cloud-init leaves that to others; where it was done already, this finds nothing to do.
field() {
    eval "printf '%s\n' \"\$LIMA_CIDATA_NET_$1_$2\""
}

# interface MAC: the name of the interface with that address.
interface() {
    for card in /sys/class/net/*; do
        [ "$(cat "$card/address" 2>/dev/null)" = "$1" ] && echo "${card##*/}" && return 0
    done
    return 1
}

failed=0
index=0
while [ "$index" -lt "${LIMA_CIDATA_NETS:-0}" ]; do
    mac=$(field "$index" MAC) wanted=$(field "$index" INTERFACE) address=$(field "$index" ADDRESS)
    index=$((index + 1))
    # Whoever made the network hands out its addresses.
    [ -n "$address" ] || continue
    if ! card=$(interface "$mac"); then
        echo "limafs: there is no network card with the address $mac"
        failed=1
        continue
    fi
    if [ "$card" != "$wanted" ]; then
        ip link set dev "$card" down && ip link set dev "$card" name "$wanted" || failed=1
    fi
    ip link set dev "$wanted" up && ip addr replace "$address" dev "$wanted" || failed=1
done
exit "$failed"

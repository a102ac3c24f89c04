#!/bin/sh
# Leads queries for the user network's name server to the one of the hostagent, which knows hostResolver.hosts and
# what the host resolves. Programs go on asking the address that they were told.
[ -n "$LIMA_CIDATA_UDP_DNS_LOCAL_PORT" ] || exit 0
udp=$LIMA_CIDATA_SLIRP_GATEWAY:$LIMA_CIDATA_UDP_DNS_LOCAL_PORT
# shellcheck disable=SC2153 # lima.env
tcp=$LIMA_CIDATA_SLIRP_GATEWAY:$LIMA_CIDATA_TCP_DNS_LOCAL_PORT
server=$LIMA_CIDATA_SLIRP_DNS

with_nft() {
    command -v nft >/dev/null || return
    rules="ip daddr $server udp dport 53 dnat to $udp; ip daddr $server tcp dport 53 dnat to $tcp;"
    # The first line makes the second work at the first boot.
    nft -f - <<EOF
add table ip limadns
delete table ip limadns
add table ip limadns
table ip limadns {
  chain prerouting { type nat hook prerouting priority -101; $rules }
  chain output { type nat hook output priority -101; $rules }
}
EOF
}

with_iptables() {
    command -v iptables >/dev/null || return
    iptables -w -t nat -N LIMADNS 2>/dev/null || iptables -w -t nat -F LIMADNS || return
    iptables -w -t nat -A LIMADNS -d "$server" -p udp --dport 53 -j DNAT --to-destination "$udp" || return
    iptables -w -t nat -A LIMADNS -d "$server" -p tcp --dport 53 -j DNAT --to-destination "$tcp" || return
    for chain in PREROUTING OUTPUT; do
        iptables -w -t nat -C "$chain" -j LIMADNS 2>/dev/null || iptables -w -t nat -I "$chain" -j LIMADNS || return
    done
}

# Knows ports, which resolv.conf does not.
with_resolved() {
    [ -d /run/systemd/resolve ] || return
    mkdir -p /run/systemd/resolved.conf.d &&
        printf '[Resolve]\nDNS=%s\nDomains=~.\n' "$udp" >/run/systemd/resolved.conf.d/limafs.conf &&
        systemctl restart systemd-resolved
}

with_nft || with_iptables || with_resolved ||
    echo "limafs: no nft, iptables or systemd-resolved: the guest asks the user network's own name server"

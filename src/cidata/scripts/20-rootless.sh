#!/bin/sh
# What containers without root need of a guest: more user ids, a user manager that outlives logins and may divide its
# control group, and ports and pings for everybody.
[ "$LIMA_CIDATA_CONTAINERD_USER" = 1 ] && [ -d /run/systemd/system ] || exit 0

# put FILE: standard input, unless it is there already. Succeeds when something changed.
put() {
    text=$(cat)
    [ "$text" != "$(cat "$1" 2>/dev/null)" ] || return 1
    mkdir -p "${1%/*}" && printf '%s\n' "$text" >"$1"
}

# systemd-homed hands out ids in this range, too, so that nobody else does.
first=524288
[ "$LIMA_CIDATA_UID" -lt "$first" ] || first=$((LIMA_CIDATA_UID + 1))
for file in /etc/subuid /etc/subgid; do
    grep -qs "^$LIMA_CIDATA_USER:" "$file" || echo "$LIMA_CIDATA_USER:$first:1073741824" >>"$file"
done

conf=/etc/sysctl.d/99-limafs-rootless.conf
{
    echo net.ipv4.ip_unprivileged_port_start=0
    echo net.ipv4.ping_group_range=0 2147483647
    # A switch of Debian's kernels.
    [ ! -e /proc/sys/kernel/unprivileged_userns_clone ] || echo kernel.unprivileged_userns_clone=1
} | put "$conf"
# Each line for itself: a kernel that has lost one of them shall have the others.
while IFS='=' read -r key value; do
    path=/proc/sys/$(echo "$key" | tr . /)
    [ ! -e "$path" ] || echo "$value" >"$path"
done <"$conf"

printf '[Service]\nDelegate=yes\n' | put '/etc/systemd/system/user@.service.d/limafs.conf' && systemctl daemon-reload

# Ubuntu lets only programs with a profile make user namespaces.
if [ -e /proc/sys/kernel/apparmor_restrict_unprivileged_userns ] && [ -e /etc/apparmor.d/abi/4.0 ]; then
    program=$LIMA_CIDATA_GUEST_INSTALL_PREFIX/bin/rootlesskit
    put /etc/apparmor.d/limafs-rootlesskit <<END && apparmor_parser -r /etc/apparmor.d/limafs-rootlesskit
abi <abi/4.0>,
include <tunables/global>
$program flags=(unconfined) {
  userns,
}
END
fi

loginctl enable-linger "$LIMA_CIDATA_USER"

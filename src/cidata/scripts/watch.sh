#!/bin/sh
# watch.sh IID PORT USER HOME
# Runs beside the boot. Reports to the host, over the virtio-serial port named PORT (none when empty):
#   sshd IID       somebody listens on port 22
#   session IID    USER can log in
# and each line that boot.sh adds to /run/limafs/reports, up to the one that says `done`.

iid=$1 port=$2 user=$3 home=$4
run=/run/limafs
failures=0
pending=
exec 3<"$run/reports"

# Any listener on port 22 (hex 16, state 0A). Starts no program, but takes 10 ms where the processor is emulated.
port_is_open() {
    for table in /proc/net/tcp /proc/net/tcp6; do
        [ -r "$table" ] || continue
        while read -r _ address _ state _; do
            case $address/$state in *:0016/0A) return 0 ;; esac
        done <"$table"
    done
    return 1
}

# sshd writes its pid once it listens, which costs nothing to see; one started by a socket unit does not.
ssh_listens() {
    [ -e /run/sshd.pid ] || [ $((ticks % 5)) -eq 0 ] || return 1
    port_is_open
}

can_log_in() {
    [ ! -e /run/nologin ] && [ ! -e /etc/nologin ] && [ -s "$home/.ssh/authorized_keys" ] && id -u "$user" >/dev/null 2>&1
}

# The port's device; the kernel's own name serves where no udev makes links.
device() {
    if [ -e "/dev/virtio-ports/$port" ]; then
        node=/dev/virtio-ports/$port
        return 0
    fi
    for entry in /sys/class/virtio-ports/*; do
        [ -r "$entry/name" ] || continue
        read -r name <"$entry/name"
        node=/dev/${entry##*/}
        [ "$name" = "$port" ] && [ -e "$node" ] && return 0
    done
    return 1
}

# A write waits while nobody is connected on the host, hence the deadline.
send() {
    [ -n "$port" ] || return 0
    # shellcheck disable=SC2016 # expanded by the inner shell
    device && timeout 1 sh -c 'printf "%s\n" "$1" >"$2"' send "$1" "$node" 2>/dev/null && return 0
    failures=$((failures + 1))
    [ "$failures" -lt 600 ] || exit 1
    return 1
}

# Sends what is new in the reports, in order; a line that cannot be sent is kept for the next time.
deliver() {
    while [ -n "$pending" ] || IFS= read -r pending <&3; do
        send "$pending" || return 0
        case $pending in done\ *) exit 0 ;; esac
        pending=
    done
}

# The host pins the key that it is shown first: one that a sudden end would lose must be on the disk before that.
keep_host_keys() {
    [ -z "$(find /etc/ssh -name 'ssh_host_*_key' -mmin -60 2>/dev/null)" ] || sync
}

report() {
    printf '%s %s\n' "$1" "$iid" >>"$run/reports"
}

# What is found goes the way of the other reports: finding must not wait for a host that does not listen.
ticks=0
phase=sshd
while [ "$ticks" -lt 6000 ]; do
    [ "$phase" = sshd ] && ssh_listens && keep_host_keys && report sshd && phase=session
    if [ "$phase" = session ] && can_log_in; then
        printf '%s\n' "$iid" >/run/lima-ssh-ready
        report session
        break
    fi
    deliver
    sleep 0.1
    ticks=$((ticks + 1))
done
pause=0.2
while deliver; do
    sleep "$pause"
    ticks=$((ticks + 1))
    [ "$ticks" -lt 6000 ] || pause=5
done

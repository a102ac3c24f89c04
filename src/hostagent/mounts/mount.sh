#!/bin/sh
# mount.sh POINT OPTIONS, POINT in base64
# Run by the hostagent in the guest, as the user: mounts the directory that the host serves on standard input and
# output, and stays for as long as it is mounted. Says `limafs-mounted` on standard error when it is; the last line
# there is why it cannot be.

fail() {
    echo "$1" >&2
    exit 1
}

is_ready() {
    command -v sshfs >/dev/null && [ -w /dev/fuse ] && grep -qs '^user_allow_other' /etc/fuse.conf
}

# The boot scripts may be about to install it.
await_sshfs() {
    tries=0
    until is_ready; do
        if [ -e /run/lima-boot-done ]; then
            is_ready && return
            command -v sshfs >/dev/null || fail "sshfs is not installed"
            [ -w /dev/fuse ] || fail "there is no /dev/fuse that may be opened"
            fail "/etc/fuse.conf has no user_allow_other"
        fi
        tries=$((tries + 1))
        [ "$tries" -lt 1200 ] || fail "the boot scripts did not install sshfs"
        sleep 0.5
    done
}

# What an earlier hostagent has left: its sshfs may be dead, and the place with it.
clear_point() {
    tries=0
    while [ "$tries" -lt 8 ] && { fusermount3 -u -z "$point" || fusermount -u -z "$point"; } 2>/dev/null; do
        tries=$((tries + 1))
    done
    mountpoint -q "$point" && fail "something else is mounted there"
    [ -d "$point" ] && [ -w "$point" ] && return
    # shellcheck disable=SC2016 # expanded by the inner shell
    sudo -n sh -c 'mkdir -p "$1" && chown "$2" "$1"' sh "$point" "$(id -u)" </dev/null >/dev/null ||
        fail "the mount point cannot be made"
}

# Ends with the sshfs that has taken the place of this shell.
tell_when_mounted() {
    until mountpoint -q "$point"; do
        kill -0 $$ 2>/dev/null || return
        sleep 0.1
    done
    echo limafs-mounted >&2
}

point=$(echo "$1" | base64 -d)
await_sshfs
clear_point
# Its older name is gone from some versions, its newer is missing in others.
case $(sshfs -h 2>&1 </dev/null) in *passive*) mode=passive ;; *) mode=slave ;; esac
(tell_when_mounted </dev/null >/dev/null &)
exec sshfs -f -o "$mode,$2" :/ "$point"

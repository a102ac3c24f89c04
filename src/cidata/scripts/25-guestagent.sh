#!/bin/sh
# Installs the guest agent, or its next version, and sees to it that it runs: the host learns from it what listens here.
agent=$LIMA_CIDATA_MNT/lima-guestagent
[ -f "$agent" ] || exit 0
set -e
bin=${LIMA_CIDATA_GUEST_INSTALL_PREFIX:-/usr/local}/bin
installed=$bin/lima-guestagent

sum() {
    sha256sum 2>/dev/null <"$1" || :
}

updated=false
if [ ! -x "$installed" ] || [ "$(sum "$agent")" != "$(sum "$installed")" ]; then
    # Exchanged, not overwritten: the old one may be running.
    mkdir -p "$bin"
    cp "$agent" "$installed.new"
    chmod 755 "$installed.new"
    mv -f "$installed.new" "$installed"
    updated=true
fi

# Where the host has a port of its own for it; not every kernel and every /dev has that.
port=$LIMA_CIDATA_VIRTIO_PORT
[ -e "/dev/virtio-ports/$port" ] || port=
vsock=${LIMA_CIDATA_VSOCK_PORT:-0}
if [ "$vsock" != 0 ]; then
    modprobe vmw_vsock_virtio_transport 2>/dev/null || :
    [ -e /dev/vsock ] || vsock=0
fi
set -- --virtio-port "$port" --vsock-port "$vsock" --socket-owner "$LIMA_CIDATA_UID"

if [ -d /run/systemd/system ]; then
    "$installed" install-systemd --guestagent-updated="$updated" "$@"
elif [ -x /sbin/openrc-run ]; then
    "$installed" install-openrc --guestagent-updated="$updated" "$@"
else
    # Nobody here restarts what ends.
    # shellcheck disable=SC2016 # expanded by the inner shell
    setsid sh -c 'while :; do "$0" daemon "$@"; sleep 1; done' "$installed" "$@" \
        >>/var/log/lima-guestagent.log 2>&1 </dev/null &
fi

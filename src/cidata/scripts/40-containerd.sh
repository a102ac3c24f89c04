#!/bin/sh
# Unpacks the archive with containerd, BuildKit and nerdctl, which is a disk of its own or a file here, and starts what
# lima.yaml asks for. The archive is read only when it is another than the one that was unpacked last.
# shellcheck disable=SC2154 # the variables of lima.env
[ "$LIMA_CIDATA_CONTAINERD_SYSTEM" = 1 ] || [ "$LIMA_CIDATA_CONTAINERD_USER" = 1 ] || exit 0

prefix=$LIMA_CIDATA_GUEST_INSTALL_PREFIX
user=$LIMA_CIDATA_USER
units=/etc/systemd/system
mark=/var/lib/limafs/containerd
PATH=$prefix/sbin:$prefix/bin:$PATH
export PATH

fail() {
    echo "limafs: containerd: $1"
    exit 1
}

# Prints the device of the archive.
find_disk() {
    for entry in /sys/block/*/serial; do
        if [ "$(cat "$entry" 2>/dev/null)" = "$LIMAFS_ARCHIVE_SERIAL" ]; then
            entry=${entry%/serial}
            echo "/dev/${entry##*/}"
            return 0
        fi
    done
    return 1
}

unpack() {
    packed=$LIMA_CIDATA_MNT/nerdctl-full.tgz
    [ -f "$packed" ] || packed=$(find_disk) || fail "the disk with the archive is not attached"
    mkdir -p "$prefix" "${mark%/*}"
    rm -f "$mark"
    # The disk is longer than the archive by what its last sector lacks.
    head -c "$LIMAFS_ARCHIVE_SIZE" "$packed" | tar -C "$prefix" -xzf - || fail "the archive cannot be unpacked"
    # Its units name /usr/local, and only there does systemd look for them.
    if [ "$prefix" != /usr/local ]; then
        for unit in "$prefix"/lib/systemd/system/*.service; do
            [ ! -f "$unit" ] || sed "s|/usr/local/|$prefix/|g" "$unit" >"$units/${unit##*/}"
        done
    fi
    systemctl daemon-reload
    sync
    echo "$LIMAFS_ARCHIVE_ID" >"$mark"
}

# start UNIT...: those that the archive has; again when they are new.
start() {
    for unit in "$@"; do
        [ -f "$prefix/lib/systemd/system/$unit" ] || continue
        systemctl enable --now "$unit" || fail "$unit does not start"
        [ -z "$is_new" ] || systemctl restart "$unit" || fail "$unit does not start"
    done
}

# A command in the user's session, whose systemd it may talk to.
as_user() {
    runtime=/run/user/$LIMA_CIDATA_UID
    (cd / && runuser -u "$user" -- env HOME="$LIMA_CIDATA_HOME" USER="$user" PATH="$PATH" XDG_RUNTIME_DIR="$runtime" \
        DBUS_SESSION_BUS_ADDRESS="unix:path=$runtime/bus" CONTAINERD_NAMESPACE=default "$@")
}

set_up_user() {
    [ "$LIMA_CIDATA_SKIP_DEFAULT_DEPENDENCY_RESOLUTION" = 1 ] ||
        sh "$LIMA_CIDATA_MNT/util/packages.sh" newuidmap=uidmap,dnf=shadow-utils,yum=shadow-utils,pacman=shadow,zypper=shadow \
            iptables=iptables || fail "what containers without root need cannot be installed"
    # Not below a session of the user's that began before its user manager was allowed to divide its control group.
    timeout 60 systemctl start "user@$LIMA_CIDATA_UID.service" || fail "the systemd of $user does not start"
    have=$(as_user systemctl --user list-unit-files --no-legend containerd.service 2>/dev/null)
    [ -n "$is_new" ] || [ -z "$have" ] || return 0
    [ -z "$have" ] || as_user containerd-rootless-setuptool.sh uninstall
    as_user containerd-rootless-setuptool.sh install || fail "containerd cannot be set up for $user"
    as_user containerd-rootless-setuptool.sh install-buildkit-containerd || fail "BuildKit cannot be set up for $user"
}

[ -d /run/systemd/system ] || fail "needs a guest with systemd"
is_new=
if [ "$(cat "$mark" 2>/dev/null)" != "$LIMAFS_ARCHIVE_ID" ]; then
    unpack
    is_new=1
fi
[ "$LIMA_CIDATA_CONTAINERD_SYSTEM" != 1 ] || start containerd.service buildkit.service stargz-snapshotter.service
[ "$LIMA_CIDATA_CONTAINERD_USER" != 1 ] || set_up_user

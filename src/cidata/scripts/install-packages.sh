#!/bin/sh
# What lima.yaml asks for needs these programs. Runs after the `dependency` scripts, one of which may have brought them.
[ "$LIMA_CIDATA_SKIP_DEFAULT_DEPENDENCY_RESOLUTION" != 1 ] || exit 0
[ "$LIMA_CIDATA_MOUNTTYPE" = reverse-sshfs ] && [ "${LIMA_CIDATA_MOUNTS:-0}" -gt 0 ] || exit 0
sh "$LIMA_CIDATA_MNT/util/packages.sh" sshfs=sshfs,dnf=fuse-sshfs,yum=fuse-sshfs || exit
grep -qs '^user_allow_other' /etc/fuse.conf || echo user_allow_other >>/etc/fuse.conf

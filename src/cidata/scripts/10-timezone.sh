#!/bin/sh
# cloud-init sets the time zone where its data is installed; small images have none.
[ -n "$LIMAFS_TIMEZONE" ] || exit 0
zone=/usr/share/zoneinfo/$LIMAFS_TIMEZONE
if [ ! -f "$zone" ]; then
    case $LIMAFS_TIMEZONE in UTC | Etc/UTC) [ -e /etc/localtime ] || exit 0 ;; esac
    # Named after a command that no package has: the data is what is missing. Most zones are the host's, not asked for:
    # a guest without network does well without.
    sh "$LIMA_CIDATA_MNT/util/packages.sh" limafs-no-zoneinfo=tzdata,zypper=timezone || exit 0
    if [ ! -f "$zone" ]; then
        echo "limafs: there is no time zone $LIMAFS_TIMEZONE"
        exit 1
    fi
fi
[ "$(readlink -f /etc/localtime)" != "$(readlink -f "$zone")" ] || exit 0
ln -sfn "$zone" /etc/localtime
[ ! -f /etc/timezone ] || printf '%s\n' "$LIMAFS_TIMEZONE" >/etc/timezone

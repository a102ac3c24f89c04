#!/bin/sh
# Run by cloud-init at every boot: mounts the cidata disk and hands over to the boot.sh on it.

LIMA_CIDATA_MNT=/mnt/lima-cidata
export LIMA_CIDATA_MNT
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH

# Prints the disk's device. udev makes the link; elsewhere ask for the label, or read it where ISO 9660 has it.
find_disk() {
    for disk in /dev/disk/by-label/cidata /dev/disk/by-label/CIDATA; do
        [ -b "$disk" ] && echo "$disk" && return 0
    done
    blkid -L cidata 2>/dev/null && return 0
    findfs LABEL=cidata 2>/dev/null && return 0
    for disk in /dev/sr[0-9]* /dev/vd[a-z] /dev/sd[a-z] /dev/xvd[a-z] /dev/vd[a-z][a-z]; do
        [ -b "$disk" ] || continue
        label=$(dd if="$disk" bs=8 skip=4101 count=1 2>/dev/null | tr -d '\0')
        case $label in cidata* | CIDATA*) echo "$disk" && return 0 ;; esac
    done
    return 1
}

# The options hide the disk's files from all but root and let its scripts be run, whatever its own modes say.
mount_disk() {
    mkdir -p "$LIMA_CIDATA_MNT"
    mount -t iso9660 -o ro,mode=0700,dmode=0700,overriderockperm,exec,uid=0 "$1" "$LIMA_CIDATA_MNT" ||
        mount -o ro,exec "$1" "$LIMA_CIDATA_MNT"
}

give_up() {
    echo "limafs: $1"
    printf 'cidata 1\n' >>/run/limafs-failed
    iid=$(cat /run/limafs/iid 2>/dev/null) &&
        printf 'failed %s 1 cidata\ndone %s 1\n' "$iid" "$iid" >>/run/limafs/reports
    exit 1
}

if [ ! -f "$LIMA_CIDATA_MNT/boot.sh" ]; then
    modprobe -q isofs 2>/dev/null
    modprobe -q sr_mod 2>/dev/null
    tries=0
    until disk=$(find_disk); do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || give_up "no disk has the label cidata"
        sleep 0.1
    done
    mount_disk "$disk" || give_up "cannot mount $disk"
fi
exec "$LIMA_CIDATA_MNT/boot.sh"

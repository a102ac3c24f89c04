#!/bin/sh
# The host's directories over 9p and virtiofs. fstab has those that it can have, with `nofail`: one that is missing is
# mounted here, or told of by its name rather than by that of this script.
# shellcheck disable=SC2154 # the variables of lima.env

case $LIMA_CIDATA_MOUNTTYPE in 9p | virtiofs) ;; *) exit 0 ;; esac

index=0
while [ "$index" -lt "${LIMA_CIDATA_MOUNTS:-0}" ]; do
    eval "point=\$LIMA_CIDATA_MOUNTS_${index}_MOUNTPOINT"
    eval "tag=\$LIMAFS_MOUNT_${index}_TAG options=\$LIMAFS_MOUNT_${index}_OPTIONS"
    index=$((index + 1))
    mountpoint -q "$point" && continue
    mkdir -p "$point" && mount -t "$LIMA_CIDATA_MOUNTTYPE" -o "$options" "$tag" "$point" && continue
    code=$?
    name="$LIMA_CIDATA_MOUNTTYPE mount $point"
    echo "limafs: $name failed with exit code $code"
    printf '%s %s\n' "$name" "$code" >>/run/limafs-failed
    printf 'failed %s %s %s\n' "$LIMA_CIDATA_IID" "$code" "$name" >>/run/limafs/reports
done
exit 0

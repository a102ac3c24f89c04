#!/bin/sh
# Additional disks: one partition each, formatted when there is nothing on it, mounted as /mnt/lima-NAME, grown to
# the disk's end. A disk is found by its serial number, lima-disk-N: letters depend on what else is attached.
# No disk is ever formatted that has anything but zeros at its beginning or its end. With `format: false` none is: its
# first partition is mounted if it can be, and all else is left to whoever knows better.
# shellcheck disable=SC2154 # the variables of lima.env

set -f
worst=0

# value NUMBER FIELD
value() {
    eval "printf '%s\n' \"\$LIMA_CIDATA_DISK_$1_$2\""
}

say() {
    echo "limafs: disk $name: $1"
}

# Prints the kernel's name of the disk with a serial number.
find_disk() {
    set +f
    for entry in /sys/block/*/serial; do
        set -f
        if [ -r "$entry" ] && [ "$(cat "$entry")" = "$1" ]; then
            entry=${entry%/serial}
            echo "${entry##*/}"
            return 0
        fi
    done
    set -f
    return 1
}

# is_blank DEVICE SECTORS: nothing but zeros in the first and the last MiB.
is_blank() {
    tail=$(($2 > 4096 ? $2 - 2048 : 0))
    bytes=$({ dd if="$1" bs=512 count=2048 && dd if="$1" bs=512 skip="$tail" count=2048; } 2>/dev/null | tr -d '\0' | wc -c)
    [ "$bytes" -eq 0 ]
}

sectors() {
    cat "/sys/class/block/$1/size"
}

# Waits for the node of a partition that was just made.
await() {
    tries=0
    until [ -b "/dev/$1" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 50 ] || return 1
        sleep 0.1
    done
}

need() {
    sh "$LIMA_CIDATA_MNT/util/packages.sh" "$@"
}

# The program that makes a file system, and its package.
need_mkfs() {
    case $1 in
        ext2 | ext3 | ext4) need "mkfs.$1=e2fsprogs" ;;
        xfs) need mkfs.xfs=xfsprogs ;;
        btrfs) need mkfs.btrfs=btrfs-progs,zypper=btrfsprogs ;;
        swap) need mkswap=util-linux ;;
        vfat) need mkfs.vfat=dosfstools ;;
        *) command -v "mkfs.$1" >/dev/null || ! say "there is no mkfs.$1" ;;
    esac
}

# A label is cut to what the file system has room for; the mount does not depend on it.
label() {
    case $1 in
        xfs) echo "lima-$name" | cut -c1-12 ;;
        ext2 | ext3 | ext4 | swap) echo "lima-$name" | cut -c1-15 ;;
        *) echo "lima-$name" ;;
    esac
}

# format PARTITION
format() {
    need_mkfs "$type" || return
    say "formatting /dev/$1 as $type"
    # shellcheck disable=SC2086 # fsArgs are words
    case $type in
        swap) mkswap $args -L "$(label swap)" "/dev/$1" ;;
        *) "mkfs.$type" $args -L "$(label "$type")" "/dev/$1" ;;
    esac
}

# Moves the partition's end to the disk's end, where more than 2 MiB are free.
grow_partition() {
    start=$(cat "/sys/class/block/$part/start")
    [ $(($(sectors "$disk") - start - $(sectors "$part"))) -gt 4096 ] || return 0
    if command -v growpart >/dev/null; then
        growpart "/dev/$disk" 1
    else
        echo ', +' | sfdisk -q --no-reread --force -N 1 "/dev/$disk" && partx -u -n 1 "/dev/$disk"
    fi
}

# Of a mounted file system; harmless when it is as large as its partition.
grow_files() {
    case $(awk -v "point=$point" '$2 == point { print $3 }' /proc/mounts | tail -n 1) in
        ext*) resize2fs "/dev/$part" >/dev/null 2>&1 ;;
        xfs) xfs_growfs "$point" >/dev/null ;;
        btrfs) btrfs filesystem resize max "$point" >/dev/null ;;
    esac
}

# The partition that is to be used, made if the disk is blank.
partition() {
    part=${disk}1
    [ -b "/dev/$part" ] && return 0
    if ! is_blank "/dev/$disk" "$(sectors "$disk")"; then
        # Somebody has put something else on it: a file system without a partition can be mounted.
        part=$disk
        return 0
    fi
    need sfdisk=fdisk,apk=sfdisk,dnf=util-linux,yum=util-linux,pacman=util-linux,zypper=util-linux || return
    kind=linux
    [ "$type" != swap ] || kind=swap
    echo "type=$kind" | sfdisk -q --label gpt "/dev/$disk" && await "$part"
}

is_mounted() {
    awk -v "point=$point" '$2 == point { found = 1 } END { exit !found }' /proc/mounts
}

mount_or_swap() {
    if [ "$type" = swap ]; then
        grep -q "^/dev/$part " /proc/swaps || swapon "/dev/$part"
        return
    fi
    mkdir -p "$point"
    # With its type first, which may load the module that finding it out would need.
    is_mounted || mount -t "$type" "/dev/$part" "$point" 2>/dev/null || mount "/dev/$part" "$point"
}

use() {
    partition || return
    if is_blank "/dev/$part" "$(sectors "$part")"; then
        format "$part" || return
    fi
    [ "$part" = "$disk" ] || [ "$type" = swap ] || is_mounted || grow_partition || say "could not be grown"
    mount_or_swap || return
    grow_files || say "the file system could not be grown"
}

use_as_it_is() {
    part=${disk}1
    [ -b "/dev/$part" ] || return 0
    mount_or_swap || say "is left as it is"
}

count=${LIMA_CIDATA_DISKS:-0}
number=0
while [ "$number" -lt "$count" ]; do
    name=$(value "$number" NAME)
    type=$(value "$number" FSTYPE)
    args=$(value "$number" FSARGS)
    point=/mnt/lima-$name
    if ! disk=$(find_disk "lima-disk-$number"); then
        say "is not attached"
        worst=1
    elif [ "$(value "$number" FORMAT)" != true ]; then
        use_as_it_is
    elif ! use; then
        say "cannot be used"
        worst=1
    fi
    number=$((number + 1))
done
exit "$worst"

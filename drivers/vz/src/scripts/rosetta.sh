#!/bin/sh
# Rosetta, which the host shares: programs for x86_64 run in a guest on Apple's processors.
# The driver puts a line `binfmt=true` or `binfmt=false` in place of the next one.
binfmt=@BINFMT@
point=/mnt/lima-rosetta
register=/proc/sys/fs/binfmt_misc
conf=/usr/lib/binfmt.d/rosetta.conf

mkdir -p "$point" || exit
mountpoint -q "$point" || mount -t virtiofs vz-rosetta "$point" || exit

# The first bytes of an ELF program for x86_64, what of them counts, and to keep them open and as they are.
magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x3e\x00'
mask='\xff\xff\xff\xff\xff\xfe\xfe\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
rule=":rosetta:M::$magic:$mask:$point/rosetta:OCF"

if [ "$binfmt" = true ]; then
    mountpoint -q "$register" || mount -t binfmt_misc binfmt_misc "$register" || exit
    [ -e "$register/rosetta" ] || printf '%s' "$rule" >"$register/register" || exit
    # systemd registers anew what is written there, and would put others before it.
    [ ! -d "${conf%/*}" ] || printf '%s\n' "$rule" >"$conf"
else
    [ ! -e "$register/rosetta" ] || echo -1 >"$register/rosetta"
    rm -f "$conf"
fi

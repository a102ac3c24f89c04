#!/bin/sh
# packages.sh COMMAND=PACKAGE[,FAMILY=PACKAGE...]...
# Installs the package of each COMMAND that is not there. FAMILY is the name of a package manager, for packages that
# have another name with it: `mkfs.xfs=xfsprogs`, `sshfs=sshfs,dnf=fuse-sshfs,yum=fuse-sshfs`.

family() {
    for name in apt-get dnf yum apk pacman zypper; do
        command -v "$name" >/dev/null && echo "$name" && return 0
    done
    return 1
}

# package FAMILY WORD: the name of WORD's package in that family.
package() {
    names=${2#*=}
    name=${names%%,*}
    while [ "$names" != "${names#*,}" ]; do
        names=${names#*,}
        case $names in "$1="*) name=${names#"$1="} && name=${name%%,*} ;; esac
    done
    echo "$name"
}

install() {
    case $1 in
        apt-get)
            shift
            DEBIAN_FRONTEND=noninteractive
            export DEBIAN_FRONTEND
            # Lists that are not there, or too old to find what they name.
            apt-get install -y --no-install-recommends "$@" ||
                { apt-get update && apt-get install -y --no-install-recommends "$@"; }
            ;;
        dnf | yum) manager=$1 && shift && "$manager" install -y "$@" ;;
        apk)
            shift
            apk add "$@" || { apk update && apk add "$@"; }
            ;;
        pacman)
            shift
            pacman -S --noconfirm --needed "$@" || pacman -Sy --noconfirm --needed "$@"
            ;;
        zypper) shift && zypper --non-interactive install --no-recommends "$@" ;;
    esac
}

wanted=
manager=
for word in "$@"; do
    command -v "${word%%=*}" >/dev/null && continue
    if [ -z "$manager" ] && ! manager=$(family); then
        echo "limafs: ${word%%=*} is missing, and there is no package manager that limafs knows"
        exit 1
    fi
    wanted="$wanted $(package "$manager" "$word")"
done
[ -n "$wanted" ] || exit 0
echo "limafs: installing$wanted"
# shellcheck disable=SC2086 # one argument per word
install "$manager" $wanted

#!/bin/sh
# Runs as root at every boot, from the mounted disk: essential scripts, our scripts and the driver's, then what the
# user's lima.yaml provisions. A script that fails is reported, and the next one runs all the same.
# shellcheck disable=SC2317 # step calls functions by name

: "${LIMA_CIDATA_MNT:=/mnt/lima-cidata}"
export LIMA_CIDATA_MNT
run=/run/limafs
scratch=/var/lib/limafs
failed=0

# Exports the lines of a KEY=VALUE file as they are: values are never seen by a shell's parser.
load() {
    while IFS= read -r line; do
        case $line in [A-Za-z_]*=*) export "${line?}" ;; esac
    done <"$LIMA_CIDATA_MNT/$1"
}

names() {
    sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p' "$LIMA_CIDATA_MNT/param.env" "$LIMA_CIDATA_MNT/etc_environment" | tr '\n' ,
}

# step NAME COMMAND...
step() {
    name=$1
    shift
    echo "limafs: running $name"
    "$@" </dev/null
    code=$?
    [ "$code" -ne 0 ] || return 0
    failed=1
    echo "limafs: $name failed with exit code $code"
    printf '%s %s\n' "$name" "$code" >>/run/limafs-failed
    printf 'failed %s %s %s\n' "$LIMA_CIDATA_IID" "$code" "$name" >>"$run/reports"
}

# each DIRECTORY [COMMAND]: a step for each of its files, run as such or given to COMMAND.
each() {
    for file in "$LIMA_CIDATA_MNT/$1"/*; do
        [ -f "$file" ] || continue
        step "$1/${file##*/}" ${2:+"$2"} "$file"
    done
}

# Puts a file of mode `data` where lima.env says.
put_data() {
    number=${1##*/}
    eval "path=\$LIMA_CIDATA_DATAFILE_${number}_PATH owner=\$LIMA_CIDATA_DATAFILE_${number}_OWNER"
    eval "permissions=\$LIMA_CIDATA_DATAFILE_${number}_PERMISSIONS overwrite=\$LIMA_CIDATA_DATAFILE_${number}_OVERWRITE"
    # shellcheck disable=SC2154 # set by eval
    [ "$overwrite" = true ] || [ ! -e "$path" ] || return 0
    # shellcheck disable=SC2154
    make_parents "$(dirname "$path")" "$owner" && cp "$1" "$path.limafs" && chown "$owner" "$path.limafs" &&
        chmod "$permissions" "$path.limafs" && mv -f "$path.limafs" "$path"
}

# Applies an expression of mode `yq` to the file that lima.env names, which may be absent.
apply_yq() {
    number=${1##*/}
    eval "path=\$LIMA_CIDATA_YQ_PROVISION_${number}_PATH owner=\$LIMA_CIDATA_YQ_PROVISION_${number}_OWNER"
    eval "permissions=\$LIMA_CIDATA_YQ_PROVISION_${number}_PERMISSIONS format=\$LIMA_CIDATA_YQ_PROVISION_${number}_FORMAT"
    source=$path
    [ -e "$path" ] || source=/dev/null
    # shellcheck disable=SC2154 # set by eval
    make_parents "$(dirname "$path")" "$owner" &&
        "${LIMA_CIDATA_GUEST_INSTALL_PREFIX:-/usr/local}/bin/lima-guestagent" yq --from-file "$1" \
            --input-format "$format" --output-format "$format" "$source" >"$path.limafs" &&
        chown "$owner" "$path.limafs" && chmod "$permissions" "$path.limafs" && mv -f "$path.limafs" "$path"
    code=$?
    rm -f "$path.limafs"
    return "$code"
}

# Directories that have to be made belong to the file's owner.
make_parents() {
    [ -d "$1" ] && return 0
    make_parents "$(dirname "$1")" "$2" && mkdir "$1" && chown "$2" "$1"
}

# Runs a copy, which the user may read, in a login of the user.
run_as_user() {
    copy=$scratch/${1##*/}
    mkdir -p "$scratch" && chmod 711 "$scratch" && cp "$1" "$copy" && chown "$LIMA_CIDATA_USER" "$copy" &&
        chmod 700 "$copy" || return
    if command -v sudo >/dev/null; then
        sudo -i -u "$LIMA_CIDATA_USER" --preserve-env="$(names)XDG_RUNTIME_DIR" "$copy"
    else
        su "$LIMA_CIDATA_USER" -s /bin/sh -c "cd && exec '$copy'"
    fi
    code=$?
    rm -f "$copy"
    return "$code"
}

# User scripts may talk to the user's own systemd.
open_session() {
    [ -d /run/systemd/system ] || return 0
    timeout 60 systemctl start "user@$LIMA_CIDATA_UID.service" || return
    XDG_RUNTIME_DIR=/run/user/$LIMA_CIDATA_UID
    export XDG_RUNTIME_DIR
}

load lima.env
load etc_environment
load param.env
rm -f /run/lima-boot-done
if [ "$(cat "$run/iid" 2>/dev/null)" != "$LIMA_CIDATA_IID" ]; then
    # A guest whose cloud-init ran no bootcmd.
    sh "$LIMA_CIDATA_MNT/util/early.sh" "$LIMA_CIDATA_IID" "$LIMAFS_BOOT_PORT" "$LIMA_CIDATA_USER" "$LIMA_CIDATA_HOME" \
        "$(cat "$LIMA_CIDATA_MNT/util/watch.sh")" "$(cat "$LIMA_CIDATA_MNT/etc_environment")"
fi

# There is such a directory where no cloud-init has run these.
each provision.boot
each boot.essential.Linux
[ "$LIMA_CIDATA_PLAIN" = 1 ] || each boot.Linux
each provision.dependency
[ "$LIMA_CIDATA_PLAIN" = 1 ] || step util/install-packages.sh "$LIMA_CIDATA_MNT/util/install-packages.sh"
each provision.data put_data
each provision.yq apply_yq
each provision.system
if [ -d "$LIMA_CIDATA_MNT/provision.user" ]; then
    step "session of $LIMA_CIDATA_USER" open_session
    each provision.user run_as_user
fi

[ ! -e /run/limafs-failed ] || failed=1
# The watcher does this much earlier, unless it looks for the keys in the wrong place.
if [ "$(cat /run/lima-ssh-ready 2>/dev/null)" != "$LIMA_CIDATA_IID" ]; then
    printf '%s\n' "$LIMA_CIDATA_IID" >/run/lima-ssh-ready
    printf 'session %s\n' "$LIMA_CIDATA_IID" >>"$run/reports"
fi
printf '%s\n' "$LIMA_CIDATA_IID" >/run/lima-boot-done
printf 'done %s %s\n' "$LIMA_CIDATA_IID" "$failed" >>"$run/reports"
exit "$failed"

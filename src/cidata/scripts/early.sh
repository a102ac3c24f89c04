#!/bin/sh
# early.sh IID PORT USER HOME WATCHER ENVIRONMENT
# The first thing that cloud-init runs at a boot. Sets the environment of logins before anybody can log in, and leaves
# a watcher behind that tells the host when that is so. Must return at once, and with success: a failed unit of
# systemd takes its background processes along.

run=/run/limafs
rm -rf "$run" /run/limafs-failed /run/lima-ssh-ready /run/lima-boot-done
(umask 077 && mkdir -p "$run")
printf '%s\n' "$1" >"$run/iid"
printf '%s' "$5" >"$run/watch.sh"
: >"$run/reports"

# /etc/environment belongs to the guest; only the lines between the two marks are ours.
file=/etc/environment
old=$(cat "$file" 2>/dev/null)
new=$(printf '%s\n' "$old" | sed '/^#LIMA-START/,/^#LIMA-END/d')
if [ -n "$6" ]; then
    quoted=$(printf '%s\n' "${6%
}" | while IFS= read -r line; do
        # PAM strips blanks and one pair of quotes around a value.
        case ${line#*=} in
            [\'\"\ ]* | *' ') printf '%s="%s"\n' "${line%%=*}" "${line#*=}" ;;
            *) printf '%s\n' "$line" ;;
        esac
    done)
    new="${new:+$new
}#LIMA-START
$quoted
#LIMA-END"
fi
[ "$new" = "$old" ] || printf '%s\n' "$new" >"$file"

# In a unit of its own where there is systemd: whatever ends cloud-init's unit would end it too.
if [ -d /run/systemd/system ] && systemd-run --quiet --collect --no-block --unit=limafs-watch \
    --property=DefaultDependencies=no sh "$run/watch.sh" "$1" "$2" "$3" "$4" </dev/null >/dev/null 2>&1; then
    exit 0
fi
setsid sh "$run/watch.sh" "$1" "$2" "$3" "$4" </dev/null >/dev/null 2>&1 &
exit 0

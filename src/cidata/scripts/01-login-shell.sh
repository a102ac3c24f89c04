#!/bin/sh
# Lets the user log in where cloud-init alone does not: in Alpine there is no bash, and sshd without PAM takes an account
# with a locked password for one that may not log in at all.
[ -f /etc/alpine-release ] || exit 0
if [ ! -e "$LIMA_CIDATA_SHELL" ] && [ "${LIMA_CIDATA_SHELL##*/}" = bash ]; then
    # What most scripts want of bash, ash has; who wants more installs bash, which replaces this.
    # shellcheck disable=SC2016 # expanded when it runs
    printf '%s\n' '#!/bin/ash' '[ $# -gt 0 ] || set -- -l' 'exec /bin/ash "$@"' >"$LIMA_CIDATA_SHELL"
    chmod 755 "$LIMA_CIDATA_SHELL"
fi
# No password at all matches `*`, but nothing is locked.
sed -i "s/^\($LIMA_CIDATA_USER\):!:/\1:*:/" /etc/shadow

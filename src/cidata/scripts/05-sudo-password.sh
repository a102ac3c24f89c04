#!/bin/sh
# Without passwordless sudo the user gets a random password, once, and finds it in ~/password.
[ "$LIMA_CIDATA_PASSWORDLESS_SUDO" = 1 ] && exit 0
[ -e "$LIMA_CIDATA_HOME/password" ] && exit 0
set -e
password=$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')
printf '%s:%s\n' "$LIMA_CIDATA_USER" "$password" | chpasswd
(umask 077 && printf '%s\n' "$password" >"$LIMA_CIDATA_HOME/password")
chown "$LIMA_CIDATA_USER" "$LIMA_CIDATA_HOME/password"
for group in sudo wheel; do
    if grep -q "^$group:" /etc/group; then
        usermod -a -G "$group" "$LIMA_CIDATA_USER" 2>/dev/null || addgroup "$LIMA_CIDATA_USER" "$group"
    fi
done

#!/bin/sh
# What cloud-init does in other guests: the user, the keys, sudo; and sshd, which many a root file system lacks.
[ "$LIMA_CIDATA_NO_CLOUD_INIT" = 1 ] || exit 0
set -e
user=$LIMA_CIDATA_USER
home=$LIMA_CIDATA_HOME

if ! id -u "$user" >/dev/null 2>&1; then
    shell=$LIMA_CIDATA_SHELL
    [ -x "$shell" ] || shell=/bin/sh
    # A colon would be the end of the field in /etc/passwd.
    comment=$(printf '%s' "$LIMA_CIDATA_COMMENT" | tr ':' ' ')
    if command -v useradd >/dev/null; then
        useradd -m -u "$LIMA_CIDATA_UID" -c "$comment" -d "$home" -s "$shell" "$user"
    else
        adduser -D -u "$LIMA_CIDATA_UID" -g "$comment" -h "$home" -s "$shell" "$user"
        # Without PAM sshd takes an account with a locked password for one that may not log in.
        sed -i "s/^\($user\):!:/\1:*:/" /etc/shadow
    fi
fi

group=$(id -g "$user")
mkdir -p "$home/.ssh"
cp "$LIMA_CIDATA_MNT/ssh_authorized_keys" "$home/.ssh/authorized_keys"
chmod 700 "$home/.ssh"
chmod 600 "$home/.ssh/authorized_keys"
chown -R "$LIMA_CIDATA_UID:$group" "$home/.ssh"

if [ -d /etc/sudoers.d ] || command -v sudo >/dev/null; then
    mkdir -p /etc/sudoers.d
    (umask 0337 && rm -f /etc/sudoers.d/90-lima && printf '%s ALL=(ALL) NOPASSWD:ALL\n' "$user" >/etc/sudoers.d/90-lima)
fi

if ! command -v sshd >/dev/null && [ ! -x /usr/sbin/sshd ]; then
    [ -f "$LIMA_CIDATA_MNT/util/packages.sh" ] || exit 1
    sh "$LIMA_CIDATA_MNT/util/packages.sh" sshd=openssh-server,apk=openssh,pacman=openssh,zypper=openssh
fi
ssh-keygen -A >/dev/null
mkdir -p /run/sshd
if [ -d /run/systemd/system ]; then
    systemctl start ssh 2>/dev/null || systemctl start sshd
elif ! pgrep -x sshd >/dev/null 2>&1; then
    "$(command -v sshd || echo /usr/sbin/sshd)"
fi

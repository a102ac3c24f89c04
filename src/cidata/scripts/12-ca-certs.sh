#!/bin/sh
# Trusts the certificates of lima.yaml in guests whose cloud-init has not done it: in Arch, and without cloud-init.
found=
for file in "$LIMA_CIDATA_MNT"/ca-certs/*.crt; do
    [ -f "$file" ] && found=1
done
anchors=
for dir in /usr/local/share/ca-certificates /etc/pki/ca-trust/source/anchors /usr/share/pki/ca-trust-source/anchors \
    /etc/pki/trust/anchors /usr/share/pki/trust/anchors /etc/ca-certificates/trust-source/anchors; do
    for file in "$dir"/cloud-init-ca-cert*; do
        [ -e "$file" ] && exit 0
    done
    [ -z "$anchors" ] && [ -d "$dir" ] && anchors=$dir
done

update() {
    if command -v update-ca-certificates >/dev/null; then
        update-ca-certificates
    elif command -v update-ca-trust >/dev/null; then
        update-ca-trust
    else
        trust extract-compat
    fi
}

# Prints the names and bytes of what we have put there.
ours() {
    for file in "$1"/lima-*.crt; do
        [ -f "$file" ] && echo "${file##*/}" && cat "$file"
    done
}

if [ "$LIMAFS_CA_REMOVE_DEFAULTS" = 1 ] && { [ -f /etc/arch-release ] || ! command -v cloud-init >/dev/null; }; then
    echo "limafs: caCerts.removeDefaults needs a cloud-init that knows this distribution's certificates"
    exit 1
fi
if [ -n "$found" ] && [ -z "$anchors" ]; then
    sh "$LIMA_CIDATA_MNT/util/packages.sh" update-ca-certificates=ca-certificates || exit 1
    anchors=/usr/local/share/ca-certificates
    mkdir -p "$anchors"
fi
[ -n "$anchors" ] || exit 0
[ "$(ours "$anchors")" != "$(ours "$LIMA_CIDATA_MNT/ca-certs")" ] || exit 0
rm -f "$anchors"/lima-*.crt
for file in "$LIMA_CIDATA_MNT"/ca-certs/lima-*.crt; do
    [ -f "$file" ] || continue
    cp "$file" "$anchors" && chmod 644 "$anchors/${file##*/}" || exit 1
done
update

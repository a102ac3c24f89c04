#!/bin/sh
# krunkit's guests have a GPU: the user may use it without being root.
for group in video render; do
    getent group "$group" >/dev/null || groupadd -r "$group" 2>/dev/null || addgroup -S "$group" || exit
    usermod -a -G "$group" "$LIMA_CIDATA_USER" 2>/dev/null || addgroup "$LIMA_CIDATA_USER" "$group" || exit
done

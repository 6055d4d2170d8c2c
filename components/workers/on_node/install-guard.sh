#!/bin/sh
# Stops an installation over a disk that holds a node which has joined as the same generation, and
# tells the installer the disk by the kernel's name, the only one that it compares with.
#
#   install-guard DISK IDENTITY
#
# The installer's first command. A machine that boots from the network by mistake, or after a power
# cut, is so kept from wiping itself; raising the node's generation makes another identity.
set -eu

ANSWERS=${AUTOJOIN_ROOT:-}/autoinstall.yaml # the installer reads it again after this
DISK=$1 IDENTITY=$2
lsblk -dno NAME "$DISK" >/dev/null 2>&1 || {
    echo "there is no disk $DISK in this machine: correct the worker's disk" >&2
    lsblk -d -o PATH,SIZE,MODEL,SERIAL >&2 || true
    exit 1
}
folder=$(mktemp -d)
trap 'umount "$folder" 2>/dev/null || true; rmdir "$folder"' EXIT

for partition in $(lsblk -lnpo NAME "$DISK"); do
    mount -o ro "$partition" "$folder" 2>/dev/null || continue
    kept=$(cat "$folder/var/lib/autojoin/identity" 2>/dev/null) || kept=''
    if [ "$kept" = "$IDENTITY" ] && [ -s "$folder/var/lib/kubelet/pki/kubelet.crt" ]; then
        echo "$partition holds $IDENTITY, which has joined: nothing is installed over it." >&2
        echo "Boot from the disk, or raise the worker's generation and run pulumi up." >&2
        exit 1
    fi
    umount "$folder"
done

name=$(readlink -f "$DISK")
[ "$name" = "$DISK" ] || sed -i "s|path: *['\"]*${DISK}['\"]*\$|path: $name|" "$ANSWERS"

#!/bin/sh
# Stops an installation over a disk that holds a node which has joined as the same generation, makes
# any other disk one that nothing starts from, and tells the installer its name.
#
#   install-guard DISK IDENTITY
#
# The first command of Ubuntu's and of Debian's installer, so it needs no more than busybox. A machine
# that boots from the network by mistake, or after a power cut, is so kept from wiping itself; raising
# the node's generation makes another identity.
set -eu

ANSWERS=${AUTOJOIN_ROOT:-}/autoinstall.yaml # Ubuntu's reads it again after this
DISK=$1 IDENTITY=$2
name=$(readlink -f "$DISK") || name=$DISK
about=${AUTOJOIN_ROOT:-}/sys/class/block/${name##*/}
[ -e "$about" ] || {
    echo "there is no disk $DISK in this machine: correct the worker's disk" >&2
    ls -l /dev/disk/by-id >&2 || true
    exit 1
}
folder=$(mktemp -d)
trap 'umount "$folder" 2>/dev/null || true; rmdir "$folder"' EXIT

for partition in "$about/${name##*/}"*; do
    partition=${name%/*}/${partition##*/}
    mount -o ro "$partition" "$folder" 2>/dev/null || continue
    kept=$(cat "$folder/var/lib/autojoin/identity" 2>/dev/null) || kept=''
    if [ "$kept" = "$IDENTITY" ] && [ -s "$folder/var/lib/kubelet/pki/kubelet.crt" ]; then
        echo "$partition holds $IDENTITY, which has joined: nothing is installed over it." >&2
        echo "Boot from the disk, or raise the worker's generation and run pulumi up." >&2
        exit 1
    fi
    umount "$folder"
done

# A mebibyte at each end, where the tables of partitions are: a machine whose power is cut before the
# new system is whole must not start the old one.
size=$(cat "$about/size") # in 512 bytes
for start in 0 $((size - 2048)); do
    dd if=/dev/zero of="$name" bs=512 count=2048 seek="$start" conv=notrunc
done
sync

# The installers know disks by the kernel's names alone.
if [ -e "$ANSWERS" ]; then
    [ "$name" = "$DISK" ] || sed -i "s|path: *['\"]*${DISK}['\"]*\$|path: $name|" "$ANSWERS"
else
    debconf-set partman-auto/disk "$name"
fi

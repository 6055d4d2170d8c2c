#!/bin/sh
# The late command of Debian's installer: the node's seed into the new system, then what starts that.
#
#   install-finish URL
#
# URL is that of the seed's folder, and ends in a slash. The boot loader comes last: a machine
# whose power is cut before finds nothing to start, and comes back from the network.
set -eu

seed=/target/var/lib/cloud/seed/nocloud
mkdir -p "$seed"
chmod 700 "$seed"
for name in user-data meta-data network-config vendor-data; do
    fetch-url "$1$name" "$seed/$name"
    chmod 600 "$seed/$name"
done
# Not for ifupdown, which cloud-init would prefer: netplan and networkd keep the node's network.
in-target apt-get -q -y purge ifupdown
in-target systemctl enable systemd-networkd
# What is installed later may bring what it recommends, as on any Debian.
rm -f /target/etc/apt/apt.conf.d/00InstallRecommends

architecture=$(udpkg --print-architecture)
if [ -d /sys/firmware/efi ]; then
    loader=grub-efi-$architecture
    apt-install --no-recommends "$loader" "$loader-signed" shim-signed efibootmgr
    set -- --force-extra-removable
else
    apt-install --no-recommends grub-pc
    set -- "$(debconf-get partman-auto/disk)"
fi
mkdir -p /target/boot/grub
in-target update-grub
sync
in-target grub-install "$@"
sync

#!/bin/sh
# Makes and starts a bhyve guest from the files beside this script, with zadm or vm-bhyve; or, where
# the host's `manager` is that, a guest of libvirt.
#
#   guest.sh [IMAGE [LINK]]
#   guest.sh --may-be-made | --make | --start | --remove    for `deliver`, where `pulumi up` keeps it
#
# IMAGE becomes its disk: for zadm a UUID, a path or a URL; for vm-bhyve the name of a file that
# `vm img URL` has fetched; for libvirt a path. LINK is what zadm makes the VNIC over. The worker's
# guest.image and guest.link in the stack file spare both.
set -eu

HERE=$(cd "$(dirname "$0")" && pwd)
MANAGER=''
# shellcheck source=/dev/null
. "$HERE/guest.env"
# What SSH gives a command without a login may lack the folders of added packages.
PATH=$PATH:/usr/sbin:/usr/local/sbin:/usr/local/bin:/opt/ooce/bin
DISKS=/var/lib/libvirt/images
STOP_SECONDS=60

die() {
    printf 'guest.sh: %s\n' "$*" >&2
    exit 2 # nothing was made
}

# Where no provisioning host is known, the seed is looked for beside this script.
with_seed() {
    sed "s|SEED_DIRECTORY/$NODE|$HERE|" "$1"
}

# --- zadm, on OmniOS -----------------------------------------------------------------------------

zadm_is_there() {
    zoneadm -z "$NODE" list >/dev/null 2>&1
}

zadm_state() {
    zoneadm -z "$NODE" list -p | cut -d: -f3
}

zadm_make() {
    [ -n "$LINK" ] || die "zadm needs the link that the VNIC is made over (dladm show-link): set guest.link of $NODE, or give it: guest.sh $IMAGE LINK"
    case $LINK in *[!A-Za-z0-9_.]*) die "$LINK is no name of a link" ;; esac
    with_seed "$HERE/zadm.json" |
        sed "/\"global-nic\"/d; s/\"physical\": /\"global-nic\": \"$LINK\", &/" |
        zadm create -b bhyve -i "$IMAGE" "$NODE"
    zadm start "$NODE"
}

zadm_start() {
    [ "$(zadm_state)" = running ] || zadm start "$NODE"
}

zadm_remove() {
    zadm_is_there || return 0
    case $(zadm_state) in configured | installed | incomplete) ;; *) zoneadm -z "$NODE" halt ;; esac
    zadm delete -f "$NODE"
}

# --- vm-bhyve, on FreeBSD ------------------------------------------------------------------------

vm_folder() {
    folder=$(sysrc -n vm_dir)
    case $folder in zfs:*) folder=$(zfs get -H -o value mountpoint "${folder#zfs:}") ;; esac
    printf '%s\n' "$folder"
}

vm_is_there() {
    vm info "$NODE" >/dev/null 2>&1
}

vm_is_running() {
    vm info "$NODE" | grep -q '^ *state: running'
}

vm_make() {
    folder=$(vm_folder)
    with_seed "$HERE/vm-bhyve.conf" >"$folder/.templates/$NODE.conf"
    vm create -t "$NODE" -i "$IMAGE" "$NODE"
    vm start "$NODE"
}

vm_start() {
    vm_is_running || vm start "$NODE"
}

vm_remove() {
    vm_is_there || return 0
    ! vm_is_running || vm poweroff -f "$NODE"
    seconds=0
    while vm_is_running; do
        [ "$seconds" -lt "$STOP_SECONDS" ] || die "$NODE still runs, $STOP_SECONDS s after vm poweroff"
        seconds=$((seconds + 1))
        sleep 1
    done
    vm destroy -f "$NODE"
    rm -f "$(vm_folder)/.templates/$NODE.conf"
}

# --- libvirt, on Linux ---------------------------------------------------------------------------

libvirt() {
    virsh --quiet --connect qemu:///system "$@"
}

libvirt_is_there() {
    guests=$(libvirt list --all --name) || die "libvirt does not tell which guests there are"
    printf '%s\n' "$guests" | grep -qxF "$NODE"
}

libvirt_make() {
    [ ! -e "$DISKS/$NODE.qcow2" ] || die "$DISKS/$NODE.qcow2 is there already; move it away, then run this again"
    qemu-img convert -O qcow2 "$IMAGE" "$DISKS/$NODE.qcow2"
    qemu-img resize -q "$DISKS/$NODE.qcow2" "$DISK_SIZE"
    # The seed holds the join key. QEMU's user is given both files by libvirt.
    (umask 077 && cp "$HERE/seed.iso" "$DISKS/$NODE-seed.iso")
    kind=kvm
    [ -c /dev/kvm ] || kind=qemu
    sed "1s/type=\"kvm\"/type=\"$kind\"/" "$HERE/libvirt.xml" | libvirt define /dev/stdin
    libvirt autostart "$NODE"
    libvirt start "$NODE"
}

libvirt_start() {
    case $(libvirt domstate "$NODE") in
        running) ;;
        paused) libvirt resume "$NODE" ;;
        *) libvirt start "$NODE" ;;
    esac
}

libvirt_remove() {
    if libvirt_is_there; then
        [ "$(libvirt domstate "$NODE")" = 'shut off' ] || libvirt destroy "$NODE"
        libvirt undefine --nvram "$NODE"
    fi
    rm -f "$DISKS/$NODE.qcow2" "$DISKS/$NODE-seed.iso"
}

# -------------------------------------------------------------------------------------------------

needs() {
    command -v "$1" >/dev/null || die "$1 is not on this machine, and its manager is to be $MANAGER"
}

case $MANAGER in
    zadm) needs zadm && manager=zadm ;;
    vm-bhyve) needs vm && manager=vm ;;
    libvirt) needs virsh && needs qemu-img && manager=libvirt ;;
    *)
        manager=''
        ! command -v vm >/dev/null || manager=vm
        ! command -v zadm >/dev/null || manager=zadm
        ;;
esac
is_there() {
    "${manager}_is_there"
}

make() {
    [ -n "$IMAGE" ] || die "which image becomes the disk? Set guest.image of $NODE, or give it: guest.sh IMAGE"
    [ -n "$manager" ] || die "there is neither zadm nor vm-bhyve on this machine"
    "${manager}_make"
}

case ${1:-} in
    --may-be-made) ! is_there || die "a guest $NODE is on this host already, and autojoin did not make it; remove it, or give the node another name, then run this again" ;;
    --make) make ;;
    --start)
        is_there || die "the guest $NODE is gone from this host; raise the generation of the node, so that a new one may join"
        "${manager}_start"
        ;;
    --remove) "${manager}_remove" ;;
    *)
        IMAGE=${1:-$IMAGE} LINK=${2:-$LINK}
        make
        ;;
esac

#!/bin/sh
# Makes and starts a bhyve guest from the files beside this script, with zadm or vm-bhyve.
#
#   guest.sh [IMAGE [LINK]]
#
# IMAGE becomes its disk: for zadm a UUID, a path or a URL; for vm-bhyve the name of a file that
# `vm img URL` has fetched. LINK is what zadm makes the VNIC over. The worker's guest.image and
# guest.link in the stack file spare both.
set -eu

HERE=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=/dev/null
. "$HERE/guest.env"
IMAGE=${1:-$IMAGE} LINK=${2:-$LINK}

die() {
    printf 'guest.sh: %s\n' "$*" >&2
    exit 1
}

# Where no provisioning host is known, the seed is looked for beside this script.
with_seed() {
    sed "s|SEED_DIRECTORY/$NODE|$HERE|" "$1"
}

zone() {
    [ -n "$LINK" ] || die "zadm needs the link that the VNIC is made over (dladm show-link): set guest.link of $NODE, or give it: guest.sh $IMAGE LINK"
    case $LINK in *[!A-Za-z0-9_.]*) die "$LINK is no name of a link" ;; esac
    with_seed "$HERE/zadm.json" |
        sed "/\"global-nic\"/d; s/\"physical\": /\"global-nic\": \"$LINK\", &/" |
        zadm create -b bhyve -i "$IMAGE" "$NODE"
    zadm start "$NODE"
}

machine() {
    directory=$(sysrc -n vm_dir)
    case $directory in zfs:*) directory=$(zfs get -H -o value mountpoint "${directory#zfs:}") ;; esac
    with_seed "$HERE/vm-bhyve.conf" >"$directory/.templates/$NODE.conf"
    vm create -t "$NODE" -i "$IMAGE" "$NODE"
    vm start "$NODE"
}

[ -n "$IMAGE" ] || die "which image becomes the disk? Set guest.image of $NODE, or give it: guest.sh IMAGE"
if command -v zadm >/dev/null; then
    zone
elif command -v vm >/dev/null; then
    machine
else
    die "there is neither zadm nor vm-bhyve on this machine"
fi

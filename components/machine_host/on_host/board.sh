#!/bin/sh
# A compute module on a Turing Pi: its seed into an image, the image onto the module, its power.
#
#   ./board.sh seed IMAGE      put the seed beside this script into an image file or a disk (/dev/sdX)
#   ./board.sh seed FOLDER     the same for the module's mounted boot partition
#   ./board.sh flash IMAGE     send the image to the board's controller (BMC), which flashes the module
#   ./board.sh flash-local F   flash from a file that lies on the BMC already, such as /mnt/sdcard/x.img
#   ./board.sh msd             show the module's disk to the BMC as mass storage (CM4: through rpiboot)
#   ./board.sh power on|off|cycle
#   ./board.sh --may-be-made | --make | --start | --remove    for `deliver`, where `pulumi up` flashes
#
# In this order: seed, flash, power cycle. The BMC counts modules from 0 when it flashes and from 1
# for their power; what the settings call SLOT is printed on the board, from 1. Its password is read
# from the file bmc-password beside this script, from BMC_PASSWORD, or asked for. `seed` into an
# image needs mtools, sfdisk and blkid (Linux), the rest curl.
set -eu
umask 077
export LC_ALL=C MTOOLS_SKIP_CHECK=1

die() {
    printf 'board.sh: %s\n' "$*" >&2
    exit 1
}

work='' copy=''
trap 'rm -rf ${work:+"$work"} ${copy:+"$copy"}' EXIT
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=/dev/null
. "$here/board.env" # NODE HARDWARE SLOT BMC BMC_PORT BMC_USER BMC_PUBLIC_KEY VOLUME CMDLINE IMAGE

need() {
    for tool in "$@"; do
        command -v "$tool" >/dev/null 2>&1 || die "$tool is not installed here; install it and run this again"
    done
}

# --- the seed ---------------------------------------------------------------------------------------

# Control groups for memory are off on a Raspberry Pi unless the kernel's command line, which is one
# line, asks for them. Standard input to standard output; what is there already stays as it is.
edit_command_line() {
    line=$(tr -s '\r\n' '  ' | sed 's/ *$//')
    for word in $CMDLINE; do
        case " $line " in
            *" $word "*) ;;
            *) line="$line $word" ;;
        esac
    done
    printf '%s\n' "$line"
}

# Where in the image the partition with the seed's label begins, in bytes.
partition_offset() {
    labels=''
    for start in $(sfdisk --dump "$1" 2>/dev/null | sed -n 's/.* start= *\([0-9]*\),.*/\1/p'); do
        label=$(blkid --probe --offset $((start * 512)) --match-tag LABEL --output value "$1" 2>/dev/null) || label=''
        labels="$labels ${label:-?}"
        if [ "$(printf '%s' "$label" | tr '[:lower:]' '[:upper:]')" = "$(printf '%s' "$VOLUME" | tr '[:lower:]' '[:upper:]')" ]; then
            printf '%s' $((start * 512))
            return 0
        fi
    done
    die "$1 has no partition labelled $VOLUME (found:${labels:- none}); is it an image for $HARDWARE, and unpacked?"
}

seed_image() {
    need mcopy sfdisk blkid
    offset=$(partition_offset "$1")
    for name in user-data meta-data network-config vendor-data; do
        mcopy -o -i "$1@@$offset" "$here/$name" "::$name" || die "$name could not be written to $1"
    done
    [ -n "$CMDLINE" ] || return 0
    work=$(mktemp -d)
    mcopy -i "$1@@$offset" ::cmdline.txt "$work/before" || die "$1 has no cmdline.txt on $VOLUME"
    edit_command_line <"$work/before" >"$work/after"
    cmp -s "$work/before" "$work/after" || mcopy -o -i "$1@@$offset" "$work/after" ::cmdline.txt
}

seed_folder() {
    for name in user-data meta-data network-config vendor-data; do
        cp "$here/$name" "$1/$name"
    done
    [ -n "$CMDLINE" ] || return 0
    [ -f "$1/cmdline.txt" ] || die "$1 has no cmdline.txt; is it the module's boot partition?"
    edit_command_line <"$1/cmdline.txt" >"$1/cmdline.new"
    if cmp -s "$1/cmdline.txt" "$1/cmdline.new"; then rm "$1/cmdline.new"; else mv "$1/cmdline.new" "$1/cmdline.txt"; fi
}

seed() {
    [ -e "$1" ] || die "there is no $1"
    if [ -d "$1" ]; then seed_folder "$1"; else seed_image "$1"; fi
    sync
    printf '%s: the seed is on %s\n' "$NODE" "$1"
}

# --- the board's controller -------------------------------------------------------------------------

# The BMC's certificate is self-signed: its public key is pinned, or a person says to do without.
use_bmc() {
    need curl
    [ -n "$BMC" ] || die "the address of the board is not known; set it in autojoin:boards and render again"
    if [ -n "$BMC_PUBLIC_KEY" ]; then
        pin="pinnedpubkey = \"$BMC_PUBLIC_KEY\""
    elif [ "${BMC_UNVERIFIED:-}" = yes ]; then
        pin=''
    else
        die "the public key of $BMC is not pinned: set autojoin:boards' publicKey to what this prints:
  openssl s_client -connect $BMC:443 </dev/null 2>/dev/null | openssl x509 -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | openssl base64
with sha256// before it, or accept any with BMC_UNVERIFIED=yes"
    fi
    if [ -f "$here/bmc-password" ]; then
        read -r BMC_PASSWORD <"$here/bmc-password" || [ -n "$BMC_PASSWORD" ]
    elif [ -z "${BMC_PASSWORD:-}" ]; then
        printf 'password of %s at %s: ' "$BMC_USER" "$BMC" >&2
        stty -echo 2>/dev/null || true
        read -r BMC_PASSWORD
        stty echo 2>/dev/null || true
    fi
    escaped=$(printf '%s' "$BMC_USER:$BMC_PASSWORD" | sed 's/[\\"]/\\&/g')
}

# bmc PATH [CURL OPTION...]: the answer, or the end with what was wrong. The password goes by
# standard input.
bmc() {
    path=$1
    shift
    answer=$(printf 'user = "%s"\ninsecure\n%s\n' "$escaped" "$pin" |
        curl --config - --silent --show-error --write-out '\n%{http_code}' "$@" "https://$BMC${BMC_PORT:+:$BMC_PORT}/api/bmc$path" 2>&1) ||
        die "the board at $BMC: ${answer%%"
"*}"
    status=${answer##*"
"}
    answer=${answer%"
"*}
    case $status in
        2*) ;;
        401 | 403) die "the board at $BMC refused the password of $BMC_USER ($status)" ;;
        *) die "the board at $BMC answered $status to $path: $answer" ;;
    esac
}

flash_status() {
    bmc '?opt=get&type=flash' --max-time 30
}

# The state of an earlier flash stands until this one begins: an old Done is no success.
await_flash() {
    waited=0
    while :; do
        flash_status
        case $answer in
            "$before") ;;
            *'"Error"'*) die "flashing failed: $answer" ;;
            *'"Done"'*) break ;;
            *) before='' ;;
        esac
        waited=$((waited + 1))
        [ "$waited" -lt "${FLASH_TRIES:-720}" ] || die "flashing did not end: $answer"
        sleep "${FLASH_PAUSE:-5}"
    done
    printf '%s: flashed\n' "$NODE"
}

flash() {
    [ -f "$1" ] || die "there is no image $1"
    use_bmc
    flash_status
    before=$answer
    case $before in *'"Transferring"'* | *'"Flashing"'*) die "the board at $BMC is flashing a module already" ;; esac
    size=$(wc -c <"$1" | tr -d ' ')
    bmc "?opt=set&type=flash&file=$NODE.img&length=$size&node=$((SLOT - 1))" --max-time 60
    handle=$(printf '%s' "$answer" | sed -n 's/.*"handle" *: *\([0-9]*\).*/\1/p')
    [ -n "$handle" ] || die "the board at $BMC gave no handle to send the image to: $answer"
    printf '%s: sending %s MiB to slot %s of %s\n' "$NODE" "$((size / 1048576))" "$SLOT" "$BMC"
    quoted=$(printf '%s' "$1" | sed 's/[\\"]/\\&/g')
    bmc "/upload/$handle" --form "file=@\"$quoted\";filename=$NODE.img;type=application/octet-stream"
    await_flash
}

flash_local() {
    case $1 in *[!A-Za-z0-9/._-]*) die "$1: use a path of letters, digits, / . _ -" ;; esac
    use_bmc
    flash_status
    before=$answer
    bmc "?opt=set&type=flash&local&file=$1&node=$((SLOT - 1))" --max-time 60
    await_flash
}

set_power() {
    bmc "?opt=set&type=power&node$SLOT=$1" --max-time 60
}

power() {
    use_bmc
    case $1 in
        on) set_power 1 ;;
        off) set_power 0 ;;
        cycle)
            set_power 0
            sleep "${POWER_PAUSE:-3}"
            set_power 1
            ;;
        *) die "power $1: say on, off or cycle" ;;
    esac
    printf '%s: power %s\n' "$NODE" "$1"
}

msd() {
    use_bmc
    bmc "?opt=set&type=node_to_msd&node=$((SLOT - 1))" --max-time 120
    printf '%s: the disk of slot %s is mass storage; seed it where it appears\n' "$NODE" "$SLOT"
}

# --- for `deliver` ----------------------------------------------------------------------------------

may_be_made() {
    need mcopy sfdisk blkid
    [ -f "$IMAGE" ] || die "there is no image $IMAGE on the provisioning host; put it there, unpacked, then run this again"
    use_bmc
    flash_status
}

# The image itself stays without a seed: other modules are made of it too.
make() {
    copy=$here/$NODE.img
    cp "$IMAGE" "$copy"
    seed_image "$copy"
    power off
    flash "$copy"
    power on
}

case ${1:-}:$# in
    --may-be-made:1) may_be_made ;;
    --make:1) make ;;
    --start:1) ;; # what it runs by now is its own affair
    --remove:1) power off ;;
    seed:2) seed "$2" ;;
    flash:2) flash "$2" ;;
    flash-local:2) flash_local "$2" ;;
    power:2) power "$2" ;;
    msd:1) msd ;;
    *) die "usage: board.sh seed IMAGE|FOLDER, flash IMAGE, flash-local FILE, msd, power on|off|cycle" ;;
esac

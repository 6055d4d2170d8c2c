#!/bin/sh
# Keeps the nodes' files on a provisioning host: hypervisor, boot server or web root. Any Unix.
#
#   deliver apply NODE DIRECTORY [FILE:DIGEST ...]  stdin: a recipe (see assemble); its files become
#                                        NODE's in DIRECTORY. The digests are for who reads a preview
#   deliver remove NODE DIRECTORY IDENTITY  remove NODE's files, if they are of that identity
#   deliver keep DIRECTORY               stdin: names; remove the files of every other node
#
# The recipe has a folder files/, whose entries (folders of this node alone) go to DIRECTORY, and the
# node's identity. Of files that name a manager of guests, this host makes the node's machine too.
# Records lie in nodes/ beside this script, in DIRECTORY/.autojoin/CLUSTER with
# assemble and its books. A record lists what NODE has in DIRECTORY; it is written last, so that who
# watches the records sees whole nodes only.
set -eu
umask 022

die() {
    printf '%s\n' "$*" >&2
    exit 1
}

# The record's names are trusted as far as they are plain names in DIRECTORY.
remove_listed() {
    cat "$RECORD" "$CLAIM" 2>/dev/null | while IFS= read -r entry; do
        case $entry in
            '' | .* | */* | *..*) continue ;;
            *) rm -rf "${DIRECTORY:?}/$entry" ;;
        esac
    done
}

# Whether an entry of DIRECTORY is NODE's: of its record, or of an apply that was cut off.
owned() {
    cat "$RECORD" "$CLAIM" 2>/dev/null | grep -qxF "$1"
}

guest() {
    sh "$DIRECTORY/$NODE/guest.sh" "$@"
}

guest_is_there() {
    guest --is-there && return 0
    [ $? = 1 ] || exit 1
    return 1
}

# A guest that stands in GUEST is ours: by its identity once it is whole, and from before it is made.
make_guest() {
    grep -q '^MANAGER=' "$DIRECTORY/$NODE/guest.env" 2>/dev/null || return 0
    if cmp -s "$GUEST" "$IDENTITY"; then
        guest_is_there || die "the guest $NODE is gone from this host; raise the generation of the node, so that a new one may join"
        guest --start
        return 0
    fi
    if [ -e "$GUEST" ]; then
        remove_guest
    elif guest_is_there; then
        die "a guest $NODE is on this host already, and autojoin did not make it; remove it, or give the node another name, then run this again"
    fi
    echo making >"$GUEST"
    guest || {
        # With 2 it was refused, and nothing was made: what is there is somebody else's.
        [ $? != 2 ] || rm -f "$GUEST"
        exit 1
    }
    cp "$IDENTITY" "$GUEST"
}

remove_guest() {
    [ -e "$GUEST" ] || return 0
    guest --remove
    rm -f "$GUEST"
}

apply() {
    chmod 755 "$DIRECTORY"
    mkdir -p "$RECORDS/nodes"
    chmod 700 "${RECORDS%/*}" "$RECORDS" "$RECORDS/nodes"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    cd "$work"
    sh "$RECORDS/assemble" unpack "$RECORDS/books"
    cd files
    : >"$work/list"
    for entry in *; do
        printf '%s\n' "$entry" >>"$work/list"
        if [ -e "$DIRECTORY/$entry" ] && ! owned "$entry"; then
            die "$DIRECTORY/$entry is there and not of $NODE of cluster ${RECORDS##*/}; move it away, or give the node another name, then run this again"
        fi
    done
    cp "$work/identity" "$RECORDS/nodes/.$NODE.identity"
    if [ -f "$RECORD" ] && cmp -s "$work/sum" "$SUM"; then
        mv "$RECORDS/nodes/.$NODE.identity" "$IDENTITY"
        make_guest
        return 0 # the very same files are there
    fi
    # By the program that made it.
    cmp -s "$work/identity" "$IDENTITY" || remove_guest
    rm -f "$SUM"
    remove_listed
    cat "$work/list" >"$CLAIM"
    for entry in *; do cp -Rp "$entry" "$DIRECTORY/$entry"; done
    cp "$work/sum" "$SUM"
    mv "$RECORDS/nodes/.$NODE.identity" "$IDENTITY"
    mv "$CLAIM" "$RECORD"
    make_guest
}

use_node() {
    NODE=$1
    RECORD=$RECORDS/nodes/$NODE.list
    SUM=$RECORDS/nodes/$NODE.sum
    IDENTITY=$RECORDS/nodes/$NODE.identity
    CLAIM=$RECORDS/nodes/.$NODE.claim
    GUEST=$RECORDS/nodes/$NODE.guest
}

# remove IDENTITY
remove() {
    found=$(cat "$IDENTITY" 2>/dev/null) || found=''
    if [ -n "$found" ] && [ "$found" != "$1" ]; then
        echo "the files of $NODE are of $found here, not of $1: they stay" >&2
        return 0
    fi
    take_away
}

take_away() {
    remove_guest
    remove_listed
    rm -rf "$RECORD" "$SUM" "$CLAIM" "$IDENTITY" "$RECORDS/nodes/.$NODE.identity"
}

# What an edit, a cut or a lost state has left here is in nobody's way any more.
keep() {
    wanted=$(cat)
    for record in "$RECORDS"/nodes/*.list "$RECORDS"/nodes/.*.claim; do
        [ -e "$record" ] || continue
        record=${record##*/}
        record=${record#.}
        use_node "${record%.*}"
        ! printf '%s\n' "$wanted" | grep -qxF "$NODE" || continue
        echo "the files of $NODE are not of this stack any more: removed" >&2
        take_away
    done
}

RECORDS=${0%/*}
case ${1:-}/$# in
    apply/[3-9]* | apply/[1-9][0-9]*)
        use_node "$2"
        DIRECTORY=$3
        apply
        ;;
    remove/4)
        use_node "$2"
        DIRECTORY=$3
        remove "$4"
        ;;
    keep/2)
        DIRECTORY=$2
        keep
        ;;
    *) die "usage: deliver apply NODE DIRECTORY | remove NODE DIRECTORY IDENTITY | keep DIRECTORY" ;;
esac

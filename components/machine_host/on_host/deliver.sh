#!/bin/sh
# Keeps the nodes' files on a provisioning host: hypervisor, boot server or web root. Any Unix.
#
#   deliver apply NODE DIRECTORY [FILE:DIGEST ...]  stdin: a recipe (see assemble); its files become
#                                        NODE's in DIRECTORY. The digests are for who reads a preview
#   deliver remove NODE DIRECTORY IDENTITY  remove NODE's files, if they are of that identity
#   deliver keep DIRECTORY               stdin: names; remove the files of every other node
#
# The recipe has a folder files/, whose entries (folders of this node alone) go to DIRECTORY, and the
# node's identity. Of files that name what their machine is kept by, in guest.env, power.env or
# board.env, this host keeps it too, by the script of that name: --may-be-made, --make, --start and
# --remove.
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

keeper() {
    for script in guest power board; do
        ! grep -q '^MANAGER=.' "$DIRECTORY/$NODE/$script.env" 2>/dev/null || printf '%s\n' "$script"
    done
}

keep_machine() {
    sh "$DIRECTORY/$NODE/$(keeper).sh" "$@"
}

# MACHINE says how far it is: new, making, or the identity of the one that is there. Of an identity
# that was here before it had a keeper, the machine is a person's: it is left as it is.
make_machine() {
    if [ -z "$(keeper)" ]; then
        rm -f "$MACHINE"
        return 0
    fi
    case $(cat "$MACHINE" 2>/dev/null) in
        new) ;;
        making) keep_machine --remove || exit 1 ;;
        "$(cat "$IDENTITY")")
            keep_machine --start || exit 1
            return 0
            ;;
        *)
            cp "$IDENTITY" "$MACHINE"
            return 0
            ;;
    esac
    keep_machine --may-be-made || exit 1
    echo making >"$MACHINE"
    keep_machine --make || {
        # With 2 it was refused, and nothing was made: what is there is somebody else's.
        [ $? != 2 ] || echo new >"$MACHINE"
        exit 1
    }
    cp "$IDENTITY" "$MACHINE"
}

remove_machine() {
    [ ! -e "$MACHINE" ] || grep -qx new "$MACHINE" || keep_machine --remove
    rm -f "$MACHINE"
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
        make_machine
        return 0 # the very same files are there
    fi
    cmp -s "$work/identity" "$IDENTITY" || {
        remove_machine # by the program that made it
        echo new >"$MACHINE"
    }
    rm -f "$SUM"
    remove_listed
    cat "$work/list" >"$CLAIM"
    for entry in *; do cp -Rp "$entry" "$DIRECTORY/$entry"; done
    cp "$work/sum" "$SUM"
    mv "$RECORDS/nodes/.$NODE.identity" "$IDENTITY"
    mv "$CLAIM" "$RECORD"
    make_machine
}

use_node() {
    NODE=$1
    RECORD=$RECORDS/nodes/$NODE.list
    SUM=$RECORDS/nodes/$NODE.sum
    IDENTITY=$RECORDS/nodes/$NODE.identity
    CLAIM=$RECORDS/nodes/.$NODE.claim
    MACHINE=$RECORDS/nodes/$NODE.machine
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
    remove_machine
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

#!/bin/sh
# Keeps the nodes' files on a provisioning host: hypervisor, boot server or web root. Any Unix.
#
#   deliver apply NODE DIRECTORY [FILE:DIGEST ...]  stdin: a recipe (see assemble); its files become
#                                        NODE's in DIRECTORY. The digests are for who reads a preview
#   deliver await NODE DIRECTORY SECONDS follow NODE's phases at the join gate until it is Ready
#   deliver remove NODE DIRECTORY        remove NODE's files
#
# The recipe has a folder files/, whose entries (folders of this node alone) go to DIRECTORY, and a
# folder await/ (gate-url, ca.pem, status-token), which stays with the records in DIRECTORY/.autojoin,
# beside this script, assemble and its books. A record lists what NODE has in DIRECTORY; it is written
# last, so that who watches the records sees whole nodes only.
set -eu
umask 022

TAB=$(printf '\t')

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

apply() {
    chmod 755 "$DIRECTORY"
    chmod 700 "$RECORDS"
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
            die "$DIRECTORY/$entry is there and not of $NODE; move it away, then run this again"
        fi
    done
    if [ -f "$RECORD" ] && [ -f "$KEPT/sum" ] && [ "$(cat "$work/sum")" = "$(cat "$KEPT/sum")" ]; then
        return 0 # the very same files are there
    fi
    rm -f "$KEPT/sum"
    remove_listed
    cat "$work/list" >"$CLAIM"
    for entry in *; do cp -Rp "$entry" "$DIRECTORY/$entry"; done
    rm -rf "$KEPT"
    mkdir "$KEPT"
    chmod 700 "$KEPT"
    cp "$work"/await/* "$work/sum" "$KEPT/"
    printf 'Authorization: Bearer %s\n' "$(cat "$KEPT/status-token")" >"$KEPT/header"
    chmod 600 "$KEPT"/*
    mv "$CLAIM" "$RECORD"
}

# poll AFTER WAIT: the gate's events after number AFTER, as tab-separated lines.
poll() {
    curl --silent --show-error --fail --max-time 15 --cacert "$KEPT/ca.pem" \
        --header "@$KEPT/header" \
        "$(cat "$KEPT/gate-url")/v1/status/$NODE?after=$1&wait=$2&format=lines"
}

# A failure that was reported before this wait began is of an earlier attempt.
take_event() {
    elapsed=$(($(date +%s) - STARTED))
    printf '%s: %s %s (%s s)%s\n' "$NODE" "$1" "$2" "$elapsed" "${3:+: $3}"
    case $2 in
        failed) [ -z "$listening" ] || die "$NODE did not join: phase $1: ${3:-no message}" ;;
        done) phases="${phases:+$phases,}\"$1\":$elapsed" ;;
    esac
    [ "$1 $2" = "ready done" ] || return 0
    printf '{"node":"%s","readySeconds":%s,"phases":{%s}}\n' "$NODE" "$elapsed" "$phases" |
        tee "$KEPT/result"
    exit 0
}

await() {
    if [ -f "$KEPT/result" ]; then
        cat "$KEPT/result"
        exit 0
    fi
    STARTED=$(date +%s)
    after=0 phase='' phases='' trouble='' listening=''
    while [ "$(($(date +%s) - STARTED))" -lt "$1" ]; do
        if events=$(poll "$after" 5 2>&1); then
            trouble=''
        else
            trouble=$events events=''
            sleep 1
        fi
        while IFS=$TAB read -r number _ event_phase state message; do
            [ -n "$number" ] || continue
            after=$number phase=$event_phase
            take_event "$phase" "$state" "$message"
        done <<EVENTS
$events
EVENTS
        listening=yes
    done
    [ -z "$trouble" ] || die "$NODE did not join: the provisioning host cannot follow it at the join gate: $trouble"
    die "$NODE did not join: phase ${phase:-start}: nothing more was heard within $1 s; look at the machine's console, and whether it was started from its files in $DIRECTORY"
}

remove() {
    remove_listed
    rm -rf "$RECORD" "$KEPT" "$CLAIM"
}

[ "$#" -ge 3 ] || die "usage: deliver apply NODE DIRECTORY | await NODE DIRECTORY SECONDS | remove NODE DIRECTORY"
command=$1 NODE=$2 DIRECTORY=$3
RECORDS=$DIRECTORY/.autojoin
RECORD=$RECORDS/$NODE.list
CLAIM=$RECORDS/.$NODE.claim
KEPT=$RECORDS/$NODE
shift 3
case $command in
    apply | remove) "$command" ;;
    await) await "$1" ;;
    *) die "deliver: unknown command $command" ;;
esac

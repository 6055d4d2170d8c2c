#!/bin/sh
# Keeps the systemd-nspawn machines of one provisioning host; runs as root where systemd is PID 1.
#
#   machine install                write the unit template that holds every machine
#   machine uninstall              remove what is not one machine's; all of it with the last machine
#   machine apply NAME [FILE:DIGEST ...]
#                                  stdin: a recipe (see assemble) of seed/, machine.env, files/,
#                                  await.env, ca.pem, status-token; makes NAME run from exactly that.
#                                  The digests are for who reads a preview
#   machine await NAME SECONDS     follow NAME's phases at the join gate until it is Ready
#   machine remove NAME            stop NAME hard and delete all that belongs to it
#   machine run|unmount NAME       what the unit itself calls
set -eu
umask 077

PROGRAMS=/usr/local/lib/autojoin
PROGRAM=$PROGRAMS/machine
MACHINES=/var/lib/autojoin/machines
LOCKS=/run/autojoin
UNITS=/etc/systemd/system
SEED=/var/lib/cloud/seed/nocloud
TAB=$(printf '\t')

die() {
    printf '%s\n' "$*" >&2
    exit 1
}

use_name() {
    NAME=${1:-}
    case $NAME in
        '' | -* | *- | *[!a-z0-9-]*)
            die "machine name '$NAME' is not valid; use a-z, 0-9 and -, and neither begin nor end with -" ;;
    esac
    [ "${#NAME}" -le 63 ] || die "machine name '$NAME' has ${#NAME} characters; use at most 63"
    HOME_DIRECTORY=$MACHINES/$NAME
    DISK=$HOME_DIRECTORY/disk
    UNIT=autojoin-machine@$NAME.service
}

# One apply or remove of a name at a time; the lock ends with the process.
lock() {
    mkdir -p "$LOCKS"
    exec 9>"$LOCKS/$NAME.lock"
    flock -w 300 9 || die "machine $NAME: another apply or remove has held it for 300 s; wait for it or end it"
}

# setting FILE KEY: the value of KEY=value, taken as text and never evaluated.
setting() {
    sed -n "s/^$2=//p" "$1" | head -n 1
}

install_unit() {
    mkdir -p "$MACHINES"
    chmod 700 "$MACHINES"
    cat >"$UNITS/.autojoin-machine@.service" <<UNIT
[Unit]
Description=autojoin machine %i
After=network.target

[Service]
ExecStart=$PROGRAM run %i
ExecStopPost=$PROGRAM unmount %i
Environment=SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
StandardOutput=append:$MACHINES/%i/console.log
StandardError=inherit
Delegate=yes
KillMode=mixed
TimeoutStopSec=10
TasksMax=infinity
LimitNOFILE=1048576
# 133 is how systemd-nspawn says that the machine wants to be started again.
RestartForceExitStatus=133
SuccessExitStatus=133

[Install]
WantedBy=multi-user.target
UNIT
    chmod 644 "$UNITS/.autojoin-machine@.service"
    if cmp -s "$UNITS/.autojoin-machine@.service" "$UNITS/autojoin-machine@.service"; then
        rm -f "$UNITS/.autojoin-machine@.service"
    else
        mv -f "$UNITS/.autojoin-machine@.service" "$UNITS/autojoin-machine@.service"
        systemctl daemon-reload
    fi
    # Eight kubelets use up the kernel's default of 128; a host that forbids it must be set from outside.
    instances=/proc/sys/fs/inotify/max_user_instances
    [ "$(cat $instances)" -ge 1024 ] || echo 1024 2>/dev/null >$instances || true
}

stop_hard() {
    systemctl kill --kill-whom=all --signal=KILL "$UNIT" 2>/dev/null || true
    systemctl stop "$UNIT" 2>/dev/null || true
    systemctl reset-failed "$UNIT" 2>/dev/null || true
    drop_link
    unmount_disk
}

# The kernel takes a killed machine's link away in its own time; a new machine would find it in the
# way. Where the name is too long for a link, systemd gives it as the link's alternative name.
drop_link() {
    ip link delete dev "vb-$NAME" 2>/dev/null || true
    ip link delete dev "vb$(printf '%s' "$NAME" | sha256sum | cut -c 1-8)" 2>/dev/null || true
}

mount_disk() {
    mkdir -p "$DISK/upper" "$DISK/work" "$DISK/root" "$HOME_DIRECTORY/containerd"
    chmod 755 "$DISK/upper" # becomes the mode of the machine's /
    mountpoint -q "$DISK/root" && return 0
    image=$(setting "$HOME_DIRECTORY/machine.env" IMAGE)
    mount -t overlay overlay "$DISK/root" \
        -o "lowerdir=$image,upperdir=$DISK/upper,workdir=$DISK/work" ||
        die "machine $NAME: cannot mount image '$image'; check that each of its folders exists"
}

unmount_disk() {
    while mountpoint -q "$DISK/root"; do
        umount "$DISK/root" 2>/dev/null || umount -l "$DISK/root" || return 1
    done
}

# What belongs to the definition of a machine: modes and contents of its input, by path.
definition() {
    (
        cd "$1"
        set --
        for part in seed files machine.env await.env ca.pem status-token; do
            [ ! -e "$part" ] || set -- "$@" "$part"
        done
        find "$@" -type f -exec sha256sum '{}' +
        find "$@" -type f -printf '%m %p\n'
    ) | sort
}

# unpack DIRECTORY: stdin to DIRECTORY/{seed/,machine.env,...}, with every name checked.
unpack() {
    rm -rf "$1"
    mkdir -p "$1"
    # Folders that are only implied become ordinary ones; $1 itself is root's alone.
    (cd "$1" && exec sh "$PROGRAMS/assemble" unpack "$PROGRAMS/books") || exit 1
    for needed in seed/user-data seed/meta-data machine.env; do
        [ -f "$1/$needed" ] || die "machine $NAME: the input has no $needed; nothing was changed"
    done
    for key in IMAGE BRIDGE; do
        [ -n "$(setting "$1/machine.env" $key)" ] ||
            die "machine $NAME: machine.env has no $key; nothing was changed"
    done
    chmod 700 "$1/seed"
    chmod 600 "$1"/seed/* "$1/machine.env"
    if [ -f "$1/status-token" ]; then
        printf 'Authorization: Bearer %s\n' "$(cat "$1/status-token")" >"$1/status-header"
    fi
}

# Fills the fresh disk before its first boot.
write_disk() {
    mount_disk
    mkdir -p "$DISK/root$SEED"
    cp "$HOME_DIRECTORY"/seed/* "$DISK/root$SEED/"
    if [ -d "$HOME_DIRECTORY/files" ]; then
        tar -C "$HOME_DIRECTORY/files" -cf - . |
            tar -C "$DISK/root" --no-overwrite-dir --keep-directory-symlink --no-same-owner -xpf -
    fi
}

# Whether all that the machine is made from is there; seed.tar is the mark of earlier versions.
is_whole() {
    [ -f "$HOME_DIRECTORY/complete" ] || [ -f "$HOME_DIRECTORY/seed.tar" ]
}

replace() {
    # Without its mark the machine counts as unfinished: a cut from here on leads to a full repeat.
    rm -f "$HOME_DIRECTORY/complete" "$HOME_DIRECTORY/seed.tar"
    stop_hard
    rm -rf --one-file-system "$HOME_DIRECTORY"
    mkdir -p "$HOME_DIRECTORY"
    mv "$1"/* "$HOME_DIRECTORY/"
    write_disk
    definition "$HOME_DIRECTORY" | sha256sum | cut -c 1-32 >"$HOME_DIRECTORY/.complete"
    mv "$HOME_DIRECTORY/.complete" "$HOME_DIRECTORY/complete"
}

# 32 hexadecimal digits of the machine's own, the same at each of its boots.
identifier() {
    cat "$HOME_DIRECTORY/complete" 2>/dev/null ||
        sha256sum "$HOME_DIRECTORY/seed.tar" | cut -c 1-32
}

start() {
    : >"$HOME_DIRECTORY/console.log"
    rm -f "$HOME_DIRECTORY/started" "$HOME_DIRECTORY/result"
    skip_old_events
    systemctl enable --quiet --no-reload "$UNIT"
    systemctl restart "$UNIT"
}

# The join key goes at the end of a join. A machine may have got there with nobody waiting: after a
# power cut the hypervisor starts it before it is applied again, perhaps before the gate runs.
joined() {
    [ -s "$DISK/root/var/lib/autojoin/identity" ] && [ ! -e "$DISK/root/etc/autojoin/join-key" ]
}

# What an earlier attempt reported must not decide this one.
skip_old_events() {
    rm -f "$HOME_DIRECTORY/after"
    [ -f "$HOME_DIRECTORY/await.env" ] || return 0
    poll 0 0 5 2>/dev/null | tail -n 1 | cut -f 1 >"$HOME_DIRECTORY/after" || true
}

apply() {
    lock
    incoming=$MACHINES/.$NAME.incoming
    unpack "$incoming"
    if ! is_whole || [ "$(definition "$incoming")" != "$(definition "$HOME_DIRECTORY")" ]; then
        replace "$incoming"
        start
    elif ! systemctl is-active --quiet "$UNIT"; then
        start # the same machine, switched off: its disk holds its certificate
    elif [ -f "$HOME_DIRECTORY/await.env" ] && [ ! -f "$HOME_DIRECTORY/result" ] && ! joined; then
        stop_hard # it has not joined yet: a restart lets it try again from its disk
        start
    fi
    rm -rf "$incoming"
}

run() {
    is_whole || die "machine $NAME: its data is incomplete; apply it again"
    date +%s.%N >"$HOME_DIRECTORY/.started"
    mv "$HOME_DIRECTORY/.started" "$HOME_DIRECTORY/started"
    mount_disk
    bridge=$(setting "$HOME_DIRECTORY/machine.env" BRIDGE)
    await_bridge "$bridge"
    drop_link
    plug_in "$bridge"
    # shellcheck disable=SC2086 # one option
    exec systemd-nspawn --quiet --directory="$DISK/root" --boot --machine="$NAME" \
        --uuid="$(identifier)" --register=no --keep-unit --console=read-only --link-journal=no \
        --resolv-conf=off --timezone=off $network \
        --bind="$HOME_DIRECTORY/containerd:/var/lib/containerd" \
        --system-call-filter='@keyring bpf'
}

# Sets `network`, the machine's link: systemd-nspawn's own, named host0 in it; or, with a MAC address
# of its own, a pair of ours whose other end moves into the machine by its name, en and a number.
plug_in() {
    network=--network-bridge=$1
    mac=$(setting "$HOME_DIRECTORY/machine.env" MAC)
    [ -n "$mac" ] || return 0
    number=$(printf '%s' "$NAME" | sha256sum | cut -c 1-8)
    ip link add "vb$number" type veth peer name "en$number" address "$mac"
    ip link set "vb$number" master "$1" up
    network=--network-interface=en$number
}

await_bridge() {
    attempts=0
    until [ -d "/sys/class/net/$1" ]; do
        attempts=$((attempts + 1))
        [ "$attempts" -le 100 ] || die "machine $NAME: bridge $1 is not there; make it, then start the machine"
        sleep 0.1
    done
}

# poll AFTER WAIT LIMIT: the gate's events after number AFTER, as tab-separated lines.
poll() {
    curl --silent --show-error --fail --max-time "$3" --cacert "$HOME_DIRECTORY/ca.pem" \
        --header "@$HOME_DIRECTORY/status-header" \
        "$(setting "$HOME_DIRECTORY/await.env" GATE_URL)/v1/status/$NAME?after=$1&wait=$2&format=lines"
}

# seconds AT: from the start of the machine to AT (both epoch seconds with a fraction).
seconds() {
    awk -v at="$1" -v start="$STARTED" 'BEGIN { printf "%.3f", at - start }'
}

advice() {
    case $1 in
        clock) echo "set the clock of the machine or its host, then run this again" ;;
        authority) echo "check that the join gate runs and that the machine reaches its address" ;;
        certificate) echo "do what the join gate's message says, then run this again" ;;
        runtime) echo "check the container runtime in the machine's image" ;;
        kubelet) echo "read the kubelet's journal in the machine (journalctl -u kubelet)" ;;
        node) echo "check that the machine reaches the API server and that the server trusts the authority" ;;
        ready) echo "check the CNI configuration on the machine and the conditions of its Node" ;;
        *) echo "read $HOME_DIRECTORY/console.log on the provisioning host" ;;
    esac
}

# The newest line of whatever the machine wrote last in its join, its cloud-init or on its console.
last_line() {
    for log in "$DISK/root/var/log/autojoin-join.log" "$DISK/root/var/log/cloud-init-output.log" \
        "$HOME_DIRECTORY/console.log"; do
        [ -s "$log" ] || continue
        line=$(tail -c 4000 "$log" | sed 's/\x1b\[[0-9;?]*[a-zA-Z]//g' | tr -cd '[:print:]\n' |
            grep '[^[:space:]]' | tail -n 1 | cut -c 1-300) || continue
        printf '%s: %s\n' "${log##*/}" "$line"
        return
    done
    echo "the machine wrote nothing"
}

# A machine that can't reach or believe the gate can't tell it why. Its own log does, on its disk:
# the newest line, where it was written since the machine's last start.
heed_own_failure() {
    log=$DISK/root/var/log/autojoin-join.log
    [ -s "$log" ] && [ "$(stat -c %Y "$log")" -gt "${STARTED%.*}" ] || return 0
    line=$(tail -c 2000 "$log" | tail -n 1 | tr -cd '[:print:]')
    case $line in
        "$NAME "*" failed: "*)
            line=${line#"$NAME "}
            give_up "${line%%" failed: "*}" "${line#*" failed: "}"
            ;;
    esac
}

give_up() {
    die "$NAME did not join: phase ${1:-start}: $2; $(advice "${1:-start}")"
}

# Takes one event: prints it, keeps it, and ends the wait on `ready` or a failure.
take_event() {
    phase=$2
    message=$(printf '%s' "$4" | tr -cd '[:print:]')
    elapsed=$(seconds "$1")
    case $elapsed in -*)
        [ "$3" != failed ] || return 0 # of an attempt before the machine's last start
        elapsed=0
        ;;
    esac
    printf '%s: %s %s (%.2f s)%s\n' "$NAME" "$phase" "$3" "$elapsed" "${message:+: $message}"
    case $3 in
        failed) give_up "$phase" "${message:-no message}" ;;
        done) phases="${phases:+$phases,}\"$phase\":$elapsed" ;;
    esac
    [ "$phase $3" != "ready done" ] || conclude
}

# The wait's good end, `elapsed` seconds after the machine's start.
conclude() {
    printf '{"node":"%s","readySeconds":%s,"phases":{%s}}\n' "$NAME" "$elapsed" "$phases" \
        >"$HOME_DIRECTORY/.result"
    mv "$HOME_DIRECTORY/.result" "$HOME_DIRECTORY/result"
    cat "$HOME_DIRECTORY/result"
    exit 0
}

# Its reports found no gate that ran, but the folder's time says when the join key went.
conclude_unheard() {
    elapsed=$(seconds "$(stat -c %.3Y "$DISK/root/etc/autojoin")")
    printf '%s: ready done (%.2f s): joined before the join gate listened\n' "$NAME" "$elapsed"
    phases="${phases:+$phases,}\"ready\":$elapsed"
    conclude
}

await() {
    case ${1:-} in
        '' | *[!0-9]*) die "machine await $NAME: '${1:-}' is not a number of seconds" ;;
    esac
    [ -f "$HOME_DIRECTORY/await.env" ] || die "machine $NAME: no join gate is known for it; apply it with await.env"
    if [ -f "$HOME_DIRECTORY/result" ]; then
        cat "$HOME_DIRECTORY/result"
        exit 0
    fi
    deadline=$(($(date +%s) + $1))
    after=$(cat "$HOME_DIRECTORY/after" 2>/dev/null) || true
    after=${after:-0}
    phases='' phase='' trouble=''
    # The unit writes it as its first act, which may be a moment after systemd said "started".
    until [ -s "$HOME_DIRECTORY/started" ]; do
        [ "$(date +%s)" -lt "$deadline" ] || give_up '' "its unit never ran: $(last_line)"
        sleep 0.05
    done
    read -r STARTED <"$HOME_DIRECTORY/started"
    while [ "$(date +%s)" -lt "$deadline" ]; do
        left=$((deadline - $(date +%s)))
        [ "$left" -le 5 ] || left=5
        if events=$(poll "$after" "$left" 15 2>&1); then
            trouble=''
        else
            trouble=$events events=''
            sleep 0.5
        fi
        while IFS=$TAB read -r number at event_phase state message; do
            [ -n "$number" ] || continue
            after=$number
            take_event "$at" "$event_phase" "$state" "$message"
        done <<EVENTS
$events
EVENTS
        [ -n "$events" ] || ! joined || conclude_unheard
        [ -n "$events" ] || heed_own_failure
        [ -n "$events" ] || systemctl is-active --quiet "$UNIT" ||
            give_up "$phase" "the machine stopped: $(last_line)"
    done
    [ -z "$trouble" ] || give_up "${phase:-authority}" "the provisioning host cannot follow it at the join gate: $trouble"
    give_up "$phase" "nothing more was heard within $1 s; last line of $(last_line)"
}

remove() {
    lock
    systemctl disable --quiet --no-reload "$UNIT" 2>/dev/null || true
    stop_hard
    rm -rf --one-file-system "$HOME_DIRECTORY" "$MACHINES/.$NAME.incoming"
}

# The graph's own part of the host. A machine that is left, of whomever, keeps what it runs by.
uninstall() {
    rm -rf "$PROGRAMS/books"
    for machine in "$MACHINES"/*; do
        [ ! -d "$machine" ] || return 0
    done
    rm -f "$UNITS/autojoin-machine@.service" "$PROGRAMS/assemble" "$PROGRAM"
    systemctl daemon-reload
}

command=${1:-}
[ "$#" -eq 0 ] || shift
case $command in
    install) install_unit ;;
    uninstall) uninstall ;;
    apply) use_name "${1:-}"; apply ;;
    await) use_name "${1:-}"; await "${2:-}" ;;
    remove) use_name "${1:-}"; remove ;;
    run) use_name "${1:-}"; run ;;
    unmount) use_name "${1:-}"; unmount_disk ;;
    *) die "usage: machine install | uninstall | apply NAME | await NAME SECONDS | remove NAME" ;;
esac

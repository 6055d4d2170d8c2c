#!/bin/sh
# Keeps the systemd-nspawn machines of one provisioning host; runs as root where systemd is PID 1.
#
#   machine install                write the unit template that holds every machine
#   machine uninstall              remove what is not one machine's, once there is none
#   machine keep                   stdin: names; remove every machine that is not among them
#   machine apply NAME [FILE:DIGEST ...]
#                                  stdin: a recipe (see assemble) of seed/, machine.env, files/,
#                                  identity, gate.env, ca.pem, status-token; makes NAME run from it.
#                                  The digests are for who reads a preview
#   machine remove NAME [IDENTITY] stop NAME hard and delete all that belongs to it; one that has an
#                                  identity goes by that alone, another one stays
#   machine run|unmount|relay NAME what its units call
#
# In .../clusters/CLUSTER/ it keeps the machines of that cluster, apart from those of others.
set -eu
umask 077

case $0 in
    */clusters/*/machine)
        CLUSTER=${0%/machine}
        CLUSTER=${CLUSTER##*/}
        ;;
    *) CLUSTER='' ;;
esac
PROGRAMS=/usr/local/lib/autojoin${CLUSTER:+/clusters/$CLUSTER}
PROGRAM=$PROGRAMS/machine
MACHINES=/var/lib/autojoin/machines${CLUSTER:+/$CLUSTER}
LOCKS=/run/autojoin${CLUSTER:+/$CLUSTER}
UNITS=/etc/systemd/system
TEMPLATE=autojoin-machine${CLUSTER:+-$CLUSTER}
SEED=/var/lib/cloud/seed/nocloud
RELAY_SECONDS=3600

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
    UNIT=$TEMPLATE@$NAME.service
    # What the host knows it by, its link included: short, and another one in each cluster.
    MACHINE=$NAME
    [ -z "$CLUSTER" ] || MACHINE=aj$(short "$CLUSTER/$NAME")
    RELAY=autojoin-relay-$MACHINE.service
}

# short TEXT: eight hexadecimal digits that stand for it.
short() {
    printf '%s' "$1" | sha256sum | cut -c 1-8
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
    cat >"$UNITS/.$TEMPLATE@.service" <<UNIT
[Unit]
Description=autojoin machine %i${CLUSTER:+ of cluster $CLUSTER}
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
    chmod 644 "$UNITS/.$TEMPLATE@.service"
    if cmp -s "$UNITS/.$TEMPLATE@.service" "$UNITS/$TEMPLATE@.service"; then
        rm -f "$UNITS/.$TEMPLATE@.service"
    else
        mv -f "$UNITS/.$TEMPLATE@.service" "$UNITS/$TEMPLATE@.service"
        systemctl daemon-reload
    fi
    # Eight kubelets use up the kernel's default of 128; a host that forbids it must be set from outside.
    instances=/proc/sys/fs/inotify/max_user_instances
    [ "$(cat $instances)" -ge 1024 ] || echo 1024 2>/dev/null >$instances || true
}

stop_hard() {
    systemctl stop "$RELAY" 2>/dev/null || true
    systemctl kill --kill-whom=all --signal=KILL "$UNIT" 2>/dev/null || true
    systemctl stop "$UNIT" 2>/dev/null || true
    systemctl reset-failed "$UNIT" 2>/dev/null || true
    drop_link
    unmount_disk
}

# The kernel takes a killed machine's link away in its own time; a new machine would find it in the
# way. Where the name is too long for a link, systemd gives it as the link's alternative name.
drop_link() {
    ip link delete dev "vb-$MACHINE" 2>/dev/null || true
    ip link delete dev "vb$(short "$MACHINE")" 2>/dev/null || true
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

# What makes a machine this one: its identity; without one, modes and contents of its input.
definition() {
    if [ -s "$1/identity" ]; then
        cat "$1/identity"
        return
    fi
    (
        cd "$1"
        set --
        for part in seed files machine.env; do
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

# Whether all that the machine is made from is there.
is_whole() {
    [ -f "$HOME_DIRECTORY/complete" ]
}

replace() {
    # Without its mark the machine counts as unfinished: a cut from here on leads to a full repeat.
    rm -f "$HOME_DIRECTORY/complete"
    stop_hard
    rm -rf --one-file-system "$HOME_DIRECTORY"
    mkdir -p "$HOME_DIRECTORY"
    mv "$1"/* "$HOME_DIRECTORY/"
    write_disk
    definition "$HOME_DIRECTORY" | sha256sum | cut -c 1-32 >"$HOME_DIRECTORY/.complete"
    mv "$HOME_DIRECTORY/.complete" "$HOME_DIRECTORY/complete"
}

start() {
    : >"$HOME_DIRECTORY/console.log"
    rm -f "$HOME_DIRECTORY/started"
    systemctl enable --quiet --no-reload "$UNIT"
    systemctl restart "$UNIT"
    [ ! -f "$HOME_DIRECTORY/gate.env" ] || start_relay
}

start_relay() {
    systemd-run --quiet --collect --unit="$RELAY" "$PROGRAM" relay "$NAME"
}

# The join key goes at the end of a join.
joined() {
    [ -s "$DISK/root/var/lib/autojoin/identity" ] && [ ! -e "$DISK/root/etc/autojoin/join-key" ]
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
    elif [ -f "$HOME_DIRECTORY/gate.env" ] && ! joined; then
        stop_hard # it has not joined yet: a restart lets it try again from its disk
        start
    fi
    rm -rf "$incoming"
}

# The capabilities are what Cilium's agent asks for beyond those that systemd-nspawn leaves.
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
    exec systemd-nspawn --quiet --directory="$DISK/root" --boot --machine="$MACHINE" --hostname="$NAME" \
        --uuid="$(cat "$HOME_DIRECTORY/complete")" --register=no --keep-unit --console=read-only --link-journal=no \
        --resolv-conf=off --timezone=off $network \
        --bind="$HOME_DIRECTORY/containerd:/var/lib/containerd" \
        --capability=CAP_IPC_LOCK,CAP_SYS_MODULE,CAP_SYS_RESOURCE \
        --system-call-filter='@keyring bpf perf_event_open'
}

# Sets `network`, the machine's link: systemd-nspawn's own, named host0 in it; or, with a MAC address
# of its own, a pair of ours whose other end moves into the machine by its name, en and a number.
plug_in() {
    network=--network-bridge=$1
    mac=$(setting "$HOME_DIRECTORY/machine.env" MAC)
    [ -n "$mac" ] || return 0
    number=$(short "$MACHINE")
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

# tell PHASE STATE EPOCH [MESSAGE]: the gate hears an event of that time; fails where it does not.
tell() {
    message=$(printf '%s' "${4:-}" | tr '"\\\t' "'/ " | tr -cd '\40-\176')
    age=$(awk -v at="$3" -v now="$(date +%s.%N)" 'BEGIN { a = now - at; printf "%.2f", (a > 0 ? a : 0) }')
    printf '{"phase":"%s","state":"%s","age":%s,"message":"%s"}' "$1" "$2" "$age" "$message" |
        curl --silent --show-error --fail --max-time 10 --cacert "$HOME_DIRECTORY/ca.pem" \
            --header "@$HOME_DIRECTORY/status-header" --header 'Content-Type: application/json' \
            --data-binary @- \
            "$(setting "$HOME_DIRECTORY/gate.env" GATE_URL)/v1/status/$NAME" >/dev/null 2>&1
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
# the newest line, where it is a failure that was written since the machine's last start.
own_failure() {
    log=$DISK/root/var/log/autojoin-join.log
    [ -s "$log" ] && [ "$(stat -c %Y "$log")" -gt "${STARTED%.*}" ] || return 0
    line=$(tail -c 2000 "$log" | tail -n 1 | tr -cd '[:print:]')
    case $line in "$NAME clock failed: "* | "$NAME authority failed: "*) printf '%s' "${line#"$NAME "}" ;; esac
}

# Tells the gate what the machine can't: that it was started, why it finds no gate, that it stopped,
# and its end where the gate was down then.
relay() {
    deadline=$(($(date +%s) + RELAY_SECONDS)) begun='' told=''
    # The unit writes it as its first act, which may be a moment after systemd said "started".
    until [ -s "$HOME_DIRECTORY/started" ] || [ "$(date +%s)" -ge "$deadline" ]; do sleep 0.05; done
    read -r STARTED <"$HOME_DIRECTORY/started"
    while [ "$(date +%s)" -lt "$deadline" ]; do
        if [ -z "$begun" ]; then
            ! tell start started "$STARTED" || begun=yes
        elif joined; then
            ! tell ready 'done' "$(stat -c %.3Y "$DISK/root/etc/autojoin")" || return 0
        elif ! systemctl is-active --quiet "$UNIT"; then
            ! tell start failed "$(date +%s)" "the machine stopped: $(last_line)" || return 0
        fi
        failure=$(own_failure)
        if [ -n "$begun" ] && [ "$failure" != "$told" ] &&
            tell "${failure%% *}" failed "$(date +%s)" "${failure#*" failed: "}"; then
            told=$failure
        fi
        sleep 1
    done
}

# remove [IDENTITY]
remove() {
    lock
    found=$(cat "$HOME_DIRECTORY/identity" 2>/dev/null) || found=''
    [ -z "$found" ] || [ "$#" -eq 1 ] || die "machine $NAME is $found: remove it by that identity"
    if [ -n "$found" ] && [ "$found" != "$1" ]; then
        printf 'machine %s is %s here, not %s: it stays\n' "$NAME" "$found" "$1" >&2
        return 0
    fi
    take_away
}

take_away() {
    systemctl disable --quiet --no-reload "$UNIT" 2>/dev/null || true
    stop_hard
    rm -rf --one-file-system "$HOME_DIRECTORY" "$MACHINES/.$NAME.incoming"
}

# What an edit, a cut or a lost state has left here is in nobody's way any more.
keep() {
    wanted=$(cat)
    for machine in "$MACHINES"/*; do
        [ -d "$machine" ] || continue
        use_name "${machine##*/}"
        ! printf '%s\n' "$wanted" | grep -qxF "$NAME" || continue
        echo "machine $NAME is not of this stack any more: removed" >&2
        (lock && take_away)
    done
}

# The graph's own part of the host. A machine that is left keeps what it runs by.
uninstall() {
    rm -rf "$PROGRAMS/books"
    for machine in "$MACHINES"/*; do
        [ ! -d "$machine" ] || return 0
    done
    rm -f "$UNITS/$TEMPLATE@.service" "$PROGRAMS/assemble" "$PROGRAMS/owner" "$PROGRAM"
    rmdir "$PROGRAMS" "$MACHINES" 2>/dev/null || true
    systemctl daemon-reload
}

command=${1:-}
[ "$#" -eq 0 ] || shift
case $command in
    install) install_unit ;;
    uninstall) uninstall ;;
    apply) use_name "${1:-}"; apply ;;
    keep) keep ;;
    relay) use_name "${1:-}"; relay ;;
    remove) use_name "${1:-}"; [ "$#" -eq 0 ] || shift; remove "$@" ;;
    run) use_name "${1:-}"; run ;;
    unmount) use_name "${1:-}"; unmount_disk ;;
    *) die "usage: machine install | uninstall | keep | apply NAME | remove NAME [IDENTITY]" ;;
esac

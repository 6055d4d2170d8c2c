#!/bin/sh
# Has a machine boot from the network once, and switches it on and off, by its own controller (BMC).
#
#   power.sh install | off | state
#   power.sh --may-be-made | --make | --start | --remove    for `deliver`, where `pulumi up` keeps it
#
# install: off if it is on, the network as the next thing to boot from, on. The settings beside this
# script say which machine, and by what: Redfish (curl), IPMI (ipmitool) or wake-on-LAN (wakeonlan,
# or FreeBSD's wake), which has no more than one packet to say. The password is in bmc-password.
set -eu
export LC_ALL=C

here=$(cd "$(dirname "$0")" && pwd)
MANAGER=''
# shellcheck source=/dev/null
. "$here/power.env" # NODE MAC MANAGER BMC BMC_PORT BMC_USER BMC_PUBLIC_KEY SYSTEM
PATH=$PATH:/usr/sbin:/usr/local/sbin:/usr/local/bin:/opt/ooce/bin
SECONDS_TO_SWITCH=${SECONDS_TO_SWITCH:-60}
failure=2 # nothing was done to the machine

die() {
    printf '%s: %s\n' "$NODE" "$*" >&2
    exit "$failure"
}

need() {
    command -v "$1" >/dev/null 2>&1 || die "$1 is not on the provisioning host; install it there, then run this again"
}

# --- Redfish -------------------------------------------------------------------------------------

# redfish METHOD PATH [BODY]: the answer, on one line. The password goes by standard input; the
# controller's certificate is its own, and its key is pinned.
redfish() {
    user=$(printf '%s:%s' "$BMC_USER" "$(cat "$here/bmc-password")" | sed 's/[\\"]/\\&/g')
    method=$1 path=$2
    shift 2
    [ $# = 0 ] || set -- --data "$1" --header 'Content-Type: application/json'
    # Some controllers change nothing for who has not seen it as it is.
    [ "$method" != PATCH ] || [ -z "$etag" ] || set -- "$@" --header "If-Match: $etag"
    answer=$(printf 'user = "%s"\ninsecure\npinnedpubkey = "%s"\n' "$user" "$BMC_PUBLIC_KEY" |
        curl --config - --silent --show-error --max-time 60 --request "$method" \
            --dump-header "$work/headers" --write-out '\n%{http_code}' "$@" \
            "https://$url_host${BMC_PORT:+:$BMC_PORT}$path" 2>&1) ||
        die "its controller at $BMC: $(printf '%s' "$answer" | head -n 1)"
    status=$(printf '%s' "$answer" | tail -n 1)
    answer=$(printf '%s' "$answer" | sed '$d' | tr -d '\r\n')
    etag=$(tr -d '\r' <"$work/headers" | sed -n 's/^[Ee][Tt][Aa][Gg]: *//p')
    case $status in
        2*) ;;
        401 | 403) die "its controller at $BMC refuses $BMC_USER with that password ($status)" ;;
        *) die "its controller at $BMC answers $status to $method $path: $(printf '%.300s' "$answer")" ;;
    esac
}

# JSON with each pair on a line of its own.
pairs() {
    tr , '\n' | tr '{' '\n' | tr '}' '\n'
}

# Where the machine is in the controller's tree: the only one there, or the one that is configured.
find_system() {
    need curl
    url_host=$BMC
    case $BMC in *:*) url_host="[$BMC]" ;; esac
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    system=/redfish/v1/Systems/$SYSTEM
    [ -z "$SYSTEM" ] || return 0
    redfish GET /redfish/v1/Systems
    members=$(printf '%s' "$answer" | sed -n 's/.*"Members" *: *\[\([^]]*\)\].*/\1/p' | pairs |
        sed -n 's/.*"@odata.id" *: *"\([^"]*\)".*/\1/p' | tr '\n' ' ')
    case $members in
        *' '?*) die "its controller at $BMC has several systems: $members; say in autojoin:boards which one by system, the last part of its path" ;;
        '') die "its controller at $BMC has no system" ;;
    esac
    system=${members% }
    system=${system%/}
}

redfish_state() {
    [ -n "${system:-}" ] || find_system
    redfish GET "$system"
    reset=$(printf '%s' "$answer" | sed -n 's/.*"#ComputerSystem\.Reset" *: *{[^}]*"target" *: *"\([^"]*\)".*/\1/p')
    state=$(printf '%s' "$answer" | pairs | sed -n 's/.*"PowerState" *: *"\([A-Za-z]*\)".*/\1/p' | head -n 1)
    case $state in
        On | PoweringOff) state=on ;;
        *) state=off ;;
    esac
}

redfish_switch() {
    type=On
    [ "$1" = on ] || type=ForceOff
    redfish POST "${reset:-$system/Actions/ComputerSystem.Reset}" "{\"ResetType\": \"$type\"}"
}

redfish_boot_from_network() {
    redfish PATCH "$system" '{"Boot": {"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": "Pxe"}}'
}

# --- IPMI ----------------------------------------------------------------------------------------

ipmi() {
    need ipmitool
    answer=$(ipmitool -I lanplus -H "$BMC" -p "${BMC_PORT:-623}" -U "$BMC_USER" -f "$here/bmc-password" -N 3 -R 2 "$@" 2>&1) && return 0
    # ipmitool says the same of both.
    case $answer in
        *'nable to establish'*) die "its controller at $BMC opens no session: it is not there, or refuses $BMC_USER with that password" ;;
        *) die "its controller at $BMC: $(printf '%s' "$answer" | tail -n 1)" ;;
    esac
}

ipmi_state() {
    ipmi chassis power status
    case $answer in
        *'is on') state=on ;;
        *'is off') state=off ;;
        *) die "its controller at $BMC tells no power: $answer" ;;
    esac
}

ipmi_switch() {
    ipmi chassis power "$1"
}

ipmi_boot_from_network() {
    ipmi chassis bootdev pxe options=efiboot
}

# --- wake-on-LAN ---------------------------------------------------------------------------------

wake() {
    if command -v wakeonlan >/dev/null 2>&1; then
        wakeonlan -i "$BMC" "$MAC" >/dev/null
    elif [ "$(uname)" = FreeBSD ]; then
        /usr/sbin/wake "$MAC"
    else
        need wakeonlan
    fi
}

# -------------------------------------------------------------------------------------------------

await() {
    seconds=0
    while "${manager}_state" && [ "$state" != "$1" ]; do
        [ "$seconds" -lt "$SECONDS_TO_SWITCH" ] || die "it stays $state: its controller at $BMC was told $1 $seconds s ago"
        seconds=$((seconds + 1))
        sleep 1
    done
}

switch() {
    "${manager}_state"
    [ "$state" != "$1" ] || return 0
    "${manager}_switch" "$1"
    await "$1"
}

install() {
    if [ "$manager" = wake ]; then
        wake
        return 0
    fi
    failure=1
    switch off
    "${manager}_boot_from_network"
    switch on
}

off() {
    if [ "$manager" = wake ]; then
        echo "$NODE: wake-on-LAN switches no machine off; do that by hand" >&2
    else
        switch off
    fi
}

manager=$MANAGER
[ "$manager" != wake-on-lan ] || manager=wake
case ${1:-} in
    install | --make) install ;;
    off | --remove) off ;;
    state) "${manager}_state" && echo "$state" ;;
    --may-be-made) [ "$manager" = wake ] || "${manager}_state" ;;
    --start) ;; # what it runs by now is its own affair
    *) die 'usage: power.sh install | off | state' ;;
esac

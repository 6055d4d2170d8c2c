# What illumos with SMF does its own way; see authority-host.sh.
# shellcheck shell=sh
# shellcheck disable=SC2034,SC2154

owner_group=root
service_mode=444

user_add() {
    getent group "$1" >/dev/null || groupadd "$1"
    useradd -g "$1" -d /nonexistent -s /usr/bin/false -c "$2" "$1"
}

instance() {
    printf '%s\n' "svc:/application/autojoin/$1:default"
}

service_file() {
    printf '%s\n' "$services/autojoin-$1.xml"
}

service_load() {
    svccfg validate "$(service_file "$1")" >&2 && svccfg import "$(service_file "$1")" >&2
}

service_running() {
    [ "$(svcs -H -o state "$(instance "$1")" 2>/dev/null)" = online ]
}

# -s waits until it is online, and fails where it ends up in maintenance.
service_start() {
    if [ "$(svcs -H -o state "$(instance "$1")" 2>/dev/null)" = maintenance ]; then
        svcadm clear "$(instance "$1")"
    fi
    svcadm enable -s "$(instance "$1")"
}

service_restart() {
    svcadm disable -s "$(instance "$1")"
    service_start "$1"
}

service_enabled() {
    [ "$(svcprop -p general/enabled "$(instance "$1")" 2>/dev/null)" = true ]
}

service_enable() {
    svcadm enable "$(instance "$1")"
}

service_stop() {
    svcadm disable -s "$(instance "$1")"
    svccfg delete "svc:/application/autojoin/$1"
}

service_log() {
    tail -n 5 "$(svcs -L "$(instance "$1")")"
}

service_look() {
    printf '%s\n' "svcs -xv $(instance "$1")"
}

port_owner() {
    printf '%s\n' "netstat -an -u | grep $1"
}

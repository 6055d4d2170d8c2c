# What OpenBSD does its own way; see authority-host.sh.
# shellcheck shell=sh
# shellcheck disable=SC2034,SC2154

owner_group=wheel
service_mode=555

user_add() {
    useradd -g =uid -L daemon -d /nonexistent -s /sbin/nologin -c "$2" "$1"
}

service_file() {
    printf '%s\n' "$services/$(rc_name "$1")"
}

service_running() {
    [ -e "$(service_file "$1")" ] && rcctl check "$(rc_name "$1")" >/dev/null 2>&1
}

# rcctl starts nothing that is not enabled, unless forced.
service_start() {
    rcctl -f start "$(rc_name "$1")"
}

service_restart() {
    rcctl -f restart "$(rc_name "$1")"
}

service_enabled() {
    rcctl get "$(rc_name "$1")" status >/dev/null 2>&1
}

service_enable() {
    rcctl enable "$(rc_name "$1")"
}

service_stop() {
    rcctl -f stop "$(rc_name "$1")"
    rcctl disable "$(rc_name "$1")"
}

service_log() {
    tail -n 5 /var/log/daemon
}

service_look() {
    printf '%s\n' "/var/log/daemon"
}

port_owner() {
    printf '%s\n' "fstat | grep :$1"
}

# rc.d does not supervise: cron looks every minute.
watch_services() {
    start_again
}

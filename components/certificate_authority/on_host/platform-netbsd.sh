# What NetBSD does its own way; see authority-host.sh.
# shellcheck shell=sh
# shellcheck disable=SC2034,SC2154

owner_group=wheel
service_mode=555
# A file for each enabled service, which rc.subr reads.
rc_enabled=/etc/rc.conf.d

user_add() {
    useradd -g =uid -d /nonexistent -s /sbin/nologin -c "$2" "$1"
}

service_file() {
    printf '%s\n' "$services/$(rc_name "$1")"
}

# The one- verbs do it whether or not it is enabled yet.
service_running() {
    [ -e "$(service_file "$1")" ] && "$(service_file "$1")" onestatus >/dev/null 2>&1
}

service_start() {
    "$(service_file "$1")" onestart
}

service_restart() {
    "$(service_file "$1")" onestop >/dev/null 2>&1 || :
    service_start "$1"
}

service_enabled() {
    [ -e "$rc_enabled/$(rc_name "$1")" ]
}

service_enable() {
    mkdir -p "$rc_enabled"
    printf '%s=YES\n' "$(rc_name "$1")" >"$rc_enabled/$(rc_name "$1")"
    chmod 644 "$rc_enabled/$(rc_name "$1")"
}

service_stop() {
    "$(service_file "$1")" onestop
    rm -f "$rc_enabled/$(rc_name "$1")"
}

service_log() {
    tail -n 5 "/var/log/$(rc_name "$1").log"
}

service_look() {
    printf '%s\n' "/var/log/$(rc_name "$1").log"
}

port_owner() {
    printf '%s\n' "sockstat -l -p $1"
}

# rc.d does not supervise: cron looks every minute.
watch_services() {
    start_again
}

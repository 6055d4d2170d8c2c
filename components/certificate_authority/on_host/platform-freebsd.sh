# What FreeBSD does its own way; see authority-host.sh.
# shellcheck shell=sh
# shellcheck disable=SC2034,SC2154

owner_group=wheel
service_mode=555

user_add() {
    pw groupshow "$1" >/dev/null 2>&1 || pw groupadd "$1"
    pw useradd "$1" -g "$1" -d /nonexistent -s /usr/sbin/nologin -c "$2"
}

user_remove() {
    pw userdel "$1"
    ! pw groupshow "$1" >/dev/null 2>&1 || pw groupdel "$1"
}

service_file() {
    printf '%s\n' "$services/$(rc_name "$1")"
}

# The one- verbs do it whether or not it is enabled yet.
service_running() {
    [ -e "$(service_file "$1")" ] && service "$(rc_name "$1")" onestatus >/dev/null 2>&1
}

service_start() {
    service "$(rc_name "$1")" onestart
}

service_restart() {
    service "$(rc_name "$1")" onerestart
}

service_enabled() {
    [ "$(sysrc -n "$(rc_name "$1")_enable" 2>/dev/null)" = YES ]
}

service_enable() {
    sysrc "$(rc_name "$1")_enable=YES"
}

service_stop() {
    service "$(rc_name "$1")" onestop
    sysrc -x "$(rc_name "$1")_enable"
}

service_log() {
    grep "$(rc_name "$1")" /var/log/messages | tail -n 5
}

service_look() {
    printf '%s\n' "grep $(rc_name "$1") /var/log/messages"
}

port_owner() {
    printf '%s\n' "sockstat -l -p $1"
}

# What Linux with systemd does its own way; see authority-host.sh.
# shellcheck shell=sh
# shellcheck disable=SC2034,SC2154

owner_group=root
service_mode=644

user_add() {
    useradd --system --user-group --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin --comment "$2" "$1"
}

user_remove() {
    userdel "$1"
}

service_file() {
    printf '%s\n' "$services/$1.service"
}

service_load() {
    systemctl daemon-reload
    # A unit that failed too often refuses to start until its counter is reset.
    systemctl reset-failed "$1.service" 2>/dev/null || :
}

service_running() {
    systemctl is-active --quiet "$1.service" 2>/dev/null
}

service_start() {
    systemctl start "$1.service"
}

service_restart() {
    systemctl restart "$1.service"
}

service_enabled() {
    systemctl is-enabled --quiet "$1.service" 2>/dev/null
}

service_enable() {
    systemctl --quiet enable "$1.service"
}

service_stop() {
    systemctl --quiet disable --now "$1.service"
}

services_gone() {
    systemctl daemon-reload
}

service_log() {
    journalctl --no-pager --quiet --output=cat --unit "$1.service" --lines 5
}

service_look() {
    printf '%s\n' "journalctl -u $1"
}

port_owner() {
    printf '%s\n' "ss -ltnp 'sport = :$1'"
}

# job NAME: its timer runs and is enabled.
job() {
    changes "$work/job-changed"
    for unit in "$1.service" "$1.timer"; do
        place "$work/$unit" "$services/$unit" 644 "$owner" "$owner_group"
    done
    if [ -n "$changed" ]; then
        systemctl daemon-reload
        systemctl restart "$1.timer" >&2
    elif ! systemctl is-active --quiet "$1.timer"; then
        systemctl start "$1.timer" >&2
    fi
    systemctl is-enabled --quiet "$1.timer" 2>/dev/null || systemctl --quiet enable "$1.timer" >&2
}

no_job() {
    systemctl --quiet disable --now "$1.timer" >/dev/null 2>&1 || :
    rm -f "${services:?}/$1.timer" "${services:?}/$1.service"
}

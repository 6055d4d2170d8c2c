# Functions that both installers on the certificate authority's host share. Read by them with `.`.
# The settings (programs, packages, ...) come from the *.env file that the caller has read before.
# shellcheck shell=sh
# shellcheck disable=SC2154

# Everything that a person may read goes to standard error: standard output is the result.
say() {
    printf '%s\n' "$*" >&2
}

fail() {
    say "$*"
    exit 1
}

# What was changed for the service that is being set up. Kept in a file as well: after an interrupted
# run the next one finds every file in place, and must restart the service all the same.
changed=
restart_due=

# changes FILE: begin to count changes; FILE lasts until `service` has restarted it.
changes() {
    changed=
    restart_due=$1
}

# note NAME
note() {
    changed="$changed $1"
    : >"$restart_due"
}

# One error for everything that is missing, with the command that installs it.
check_packages() {
    missing=
    wanted=
    for pair in $packages; do
        command=${pair%%=*}
        package=${pair#*=}
        case $command in
        python3:*) /usr/bin/python3 -I -c "import ${command#python3:}" 2>/dev/null && continue ;;
        *) command -v "$command" >/dev/null 2>&1 && continue ;;
        esac
        command=${command#python3:}
        missing="$missing ${command##*/}"
        wanted="$wanted $package"
    done
    [ -z "$missing" ] ||
        fail "$address: missing:$missing; install them there: $package_command$wanted"
}

check_root() {
    [ "$(id -u)" = 0 ] || fail "$address: must run as root, found user $(id -un); log in as root"
}

# user NAME DESCRIPTION: a system user and group without a home or a shell.
user() {
    getent passwd "$1" >/dev/null && return
    useradd --system --user-group --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin --comment "$2" "$1"
}

# folder PATH MODE OWNER GROUP
folder() {
    install -d -m "$2" -o "$3" -g "$4" "$1"
}

# place SOURCE TARGET MODE OWNER GROUP: put a file in place at once, only where it differs.
place() {
    if cmp -s "$1" "$2" && [ "$(stat -c '%a %U %G' "$2")" = "$3 $4 $5" ]; then
        return
    fi
    note "${2##*/}"
    install -m "$3" -o "$4" -g "$5" "$1" "$2.new"
    mv -f "$2.new" "$2"
}

# secret TARGET GROUP: a random key, made once.
secret() {
    [ -s "$1" ] && return
    note "${1##*/}"
    openssl rand -hex 32 >"$1.new"
    chmod 640 "$1.new"
    chown "root:$2" "$1.new"
    mv -f "$1.new" "$1"
}

# service NAME: running and enabled; restarted only where something changed since `changes`.
service() {
    if [ -e "$restart_due" ]; then
        say "$address: $1: restarted for:${changed:- an interrupted run before}"
        systemctl daemon-reload
        # A unit that failed too often refuses to start until its counter is reset.
        systemctl reset-failed "$1" 2>/dev/null || :
        systemctl restart "$1" >&2 || service_failed "$1"
    elif ! systemctl is-active --quiet "$1"; then
        systemctl start "$1" >&2 || service_failed "$1"
    fi
    systemctl is-enabled --quiet "$1" 2>/dev/null || systemctl --quiet enable "$1" >&2
    rm -f "$restart_due"
}

service_failed() {
    say "$address: $1 does not run; its last lines:"
    journalctl --no-pager --quiet --output=cat --unit "$1" --lines 5 >&2 || :
    fail "$address: $1 does not run; look there: journalctl -u $1"
}

# no_service NAME: stopped, disabled and gone.
no_service() {
    systemctl --quiet disable --now "$1" >/dev/null 2>&1 || :
    rm -f "${units:?}/$1"
}

# Functions that both installers on the certificate authority's host share. Read by them with `.`,
# together with platform.sh, which holds what differs between platforms. The settings (programs,
# packages, ...) come from the *.env file that the caller has read before.
# Nothing here is GNU's: no install, stat -c, base64, runuser or mktemp with a template's suffix.
# shellcheck shell=sh
# shellcheck disable=SC2154

# --- what a platform does its own way where it does it otherwise: platform.sh is read after this ----

owner=root

user_remove() {
    userdel "$1"
    ! getent group "$1" >/dev/null || groupdel "$1"
}

# The name of a service for rc.subr, which makes shell variables of it, so no dashes.
rc_name() {
    printf 'autojoin_%s\n' "$(printf '%s' "$1" | tr - _)"
}

# A service's file is new.
service_load() {
    :
}

# Services' files were removed.
services_gone() {
    :
}

# Where the service manager restarts what ends, nobody else watches.
watch_services() {
    :
}

# job NAME: it runs from now on.
job() {
    cron_with "$work/$1.cron" "$1"
}

no_job() {
    cron_with '' "$1"
}

# ----------------------------------------------------------------------------------------------------

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
# Where the files lie that this run replaced, so that a failed update can be taken back.
undo=

# changes FILE: begin to count changes; FILE lasts until `run_service` has restarted it.
changes() {
    changed=
    restart_due=$1
    undo=$work/undo
    rm -rf "$undo"
    mkdir "$undo"
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
        python3:*) "$python" -I -c "import ${command#python3:}" 2>/dev/null && continue ;;
        *) command -v "$command" >/dev/null 2>&1 && continue ;;
        esac
        command=${command#python3:}
        missing="$missing ${command##*/}"
        case " $wanted " in *" $package "*) ;; *) wanted="$wanted $package" ;; esac
    done
    if [ -z "$missing" ]; then
        check_python
        return
    fi
    [ -z "$wanted" ] || wanted="; install them there: $package_command$wanted"
    fail "$address: missing:$missing$wanted"
}

# The platform's own Python may be too old for what is brought along.
check_python() {
    found=$("$python" -I -c 'import cryptography, sys
print("Python", *sys.version_info[:2], "cryptography", cryptography.__version__)
sys.exit(sys.version_info < (3, 9) or int(cryptography.__version__.split(".")[0]) < 36)') ||
        fail "$address: $python is too old: found $found; Python 3.9 and cryptography 36 are the least"
}

check_root() {
    [ "$(id -u)" = 0 ] || fail "$address: must run as root, found user $(id -un); log in as root"
}

# check_space FOLDER: a full disk is told before anything changes. FOLDER need not be there yet.
check_space() {
    place=$1
    while [ ! -d "$place" ]; do place=$(dirname "$place"); done
    free=$(df -Pk "$place" | awk 'NR == 2 { print $4 }')
    [ "${free:-0}" -ge "$least_kilobytes" ] ||
        fail "$address: $place has ${free:-no} KiB free, needs $least_kilobytes; make room there"
}
least_kilobytes=20480

# check_port PORT SERVICE: nobody but our own service listens there.
check_port() {
    service_running "$2" && return
    if "$python" -I "$here/probe.py" taken "$1"; then
        fail "$address: port $1 is taken by another program, $2 needs it; stop that one ($(port_owner "$1") names it)"
    fi
}

# user NAME DESCRIPTION: a system user and group without a home or a shell.
user() {
    id -u "$1" >/dev/null 2>&1 || user_add "$1" "$2"
}

# folder PATH MODE OWNER GROUP
folder() {
    # Folders on the way are everybody's to go through.
    (umask 022 && mkdir -p "$1")
    chmod "$2" "$1"
    chown "$3:$4" "$1"
}

# is_placed SOURCE TARGET MODE OWNER GROUP
is_placed() {
    cmp -s "$1" "$2" && [ -n "$(find "$2" -prune -perm "$3" -user "$4" -group "$5")" ]
}

# place SOURCE TARGET MODE OWNER GROUP: put a file in place at once, only where it differs.
place() {
    if is_placed "$@"; then
        return
    fi
    note "${2##*/}"
    remember "$2"
    # The umask keeps it from others until its owner and mode are right.
    cp "$1" "$2.new"
    chown "$4:$5" "$2.new"
    chmod "$3" "$2.new"
    mv -f "$2.new" "$2"
}

# remember TARGET: keep what is there for take_back.
remember() {
    kept=$undo/$(printf '%s' "$1" | tr / _)
    if [ ! -e "$kept.path" ]; then
        if [ -e "$1" ]; then cp -p "$1" "$kept.old"; fi
        printf '%s\n' "$1" >"$kept.path"
    fi
}

# take_back NAME: after a failed update, what ran before runs again. False where nothing ran before.
take_back() {
    [ -n "$undo" ] && [ -n "$(find "$undo" -name '*.old' -prune)" ] || return 1
    for kept in "$undo"/*.path; do
        target=$(cat "$kept")
        if [ -e "${kept%.path}.old" ]; then
            cp -p "${kept%.path}.old" "$target.new"
            mv -f "$target.new" "$target"
        else
            rm -f "$target"
        fi
    done
    undo=
    service_load "$1"
    service_restart "$1"
}

# lives_on CERTIFICATE CA SECONDS: whether it is valid for so long, or for as long as its CA is.
lives_on() {
    openssl x509 -in "$1" -noout -checkend "$3" >/dev/null ||
        [ "$(openssl x509 -in "$1" -noout -enddate)" = "$(openssl x509 -in "$2" -noout -enddate)" ]
}

# secret TARGET GROUP: a random key, made once.
secret() {
    [ -s "$1" ] && return
    note "${1##*/}"
    openssl rand -hex 32 >"$1.new"
    chown "$owner:$2" "$1.new"
    chmod 640 "$1.new"
    mv -f "$1.new" "$1"
}

# install_service NAME: put its definition in place; `run_service` then runs it.
install_service() {
    file=$(service_file "$1")
    place "$work/${file##*/}" "$file" "$service_mode" "$owner" "$owner_group"
}

# run_service NAME: running and enabled; restarted only where something changed since `changes`.
run_service() {
    if [ -e "$restart_due" ]; then
        say "$address: $1: restarted for:${changed:- an interrupted run before}"
        service_load "$1"
        service_restart "$1" >&2 || service_failed "$1"
    elif ! service_running "$1"; then
        service_start "$1" >&2 || service_failed "$1"
    fi
    service_enabled "$1" || service_enable "$1" >&2
}

# service_failed NAME: tell why, take the update back where there was one, end.
service_failed() {
    say "$address: $1 does not run; its last lines:"
    service_log "$1" >&2 || :
    if take_back "$1" >&2; then
        fail "$address: $1: the update failed and was taken back: it runs as before; look there: $(service_look "$1")"
    fi
    fail "$address: $1 does not run; look there: $(service_look "$1")"
}

# done_with NAME: what was changed is good.
settled() {
    rm -f "$restart_due"
    undo=
}

# no_service NAME: stopped, disabled and gone.
no_service() {
    service_stop "$1" >/dev/null 2>&1 || :
    rm -f "$(service_file "$1")"
}

# as_user USER COMMAND ARGUMENT...
as_user() {
    "$python" -I "$here/as-user.py" "$@"
}

# For platforms that do not supervise services: what is enabled and has ended is started again.
start_again() {
    for watched in cfssl ocsp-responder join-gate; do
        if [ -e "$(service_file "$watched")" ] && service_enabled "$watched" && ! service_running "$watched"; then
            say "$address: $watched had ended; started again"
            service_start "$watched" >&2 || :
        fi
    done
}

# --- jobs by cron, for the platforms that have nothing better ------------------------------------

# cron_with FILE NAME: root's crontab with the lines of FILE (none where it is empty) as those of NAME.
cron_with() {
    scratch=$(mktemp -d)
    crontab -l 2>/dev/null | sed "/^# autojoin $2\$/,/^# end of autojoin $2\$/d" >"$scratch/crontab"
    if [ -n "$1" ]; then
        {
            printf '# autojoin %s\n' "$2"
            cat "$1"
            printf '# end of autojoin %s\n' "$2"
        } >>"$scratch/crontab"
    fi
    crontab -l 2>/dev/null | cmp -s - "$scratch/crontab" || crontab "$scratch/crontab"
    rm -rf "$scratch"
}

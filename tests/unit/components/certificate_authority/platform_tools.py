"""What stands in for the service tools of platforms that this machine is not.

Each does what the installers ask of the real one, starts and stops real processes from what was
really emitted, and writes what it was asked to $STATE/asked.
"""

from __future__ import annotations

# Common to all: a process by its name, in $STATE.
_PROCESSES = """#!/bin/sh
echo "${0##*/} $*" >>"$STATE/asked"
pid() { cat "$STATE/$1.pid" 2>/dev/null; }
alive() { [ -n "$(pid "$1")" ] && kill -0 "$(pid "$1")" 2>/dev/null; }
begin() {
    alive "$1" && return
    setsid sh -c "exec $2" >>"$STATE/$1.log" 2>&1 </dev/null &
    echo $! >"$STATE/$1.pid"
}
end() {
    if alive "$1"; then kill "$(pid "$1")"; while alive "$1"; do sleep 0.02; done; fi
    rm -f "$STATE/$1.pid"
}
"""

CRONTAB = """#!/bin/sh
case $1 in
-l) cat "$STATE/crontab" 2>/dev/null ;;
*) cp "$1" "$STATE/crontab" ;;
esac
"""

# --- illumos: the manifest that was imported is what runs; svccfg validates it by the DTD ---------

_SMF = (
    _PROCESSES
    + """
named() { printf '%s' "$1" | sed 's/^svc:.application.autojoin.//; s/:default$//'; }
attribute() {
    xmllint --nonet --xpath "string(//exec_method[@name='start']/@exec)" "$STATE/$1.xml"
}
"""
)
SVCCFG = (
    _SMF
    + """
case $1 in
validate) xmllint --nonet --noout --dtdvalid "$DTD" "$2" ;;
import) cp "$2" "$STATE/$(basename "$2" .xml | sed s/^autojoin-//).xml" ;;
delete) rm "$STATE/$(named "$2").xml" ;;
esac
"""
)
SVCADM = (
    _SMF
    + """
verb=$1
shift
[ "$1" != -s ] || shift
name=$(named "$1")
[ -e "$STATE/$name.xml" ] || exit 1
case $verb in
enable) begin "$name" "$(attribute "$name")"; : >"$STATE/$name.enabled" ;;
disable) end "$name"; rm -f "$STATE/$name.enabled" ;;
esac
"""
)
SVCS = (
    _SMF
    + """
for last in "$@"; do :; done
name=$(named "$last")
case $1 in
-L) echo "$STATE/$name.log" ;;
-H)
    [ -e "$STATE/$name.xml" ] || exit 1
    if alive "$name"; then echo online; else echo disabled; fi
    ;;
esac
"""
)
SVCPROP = (
    _SMF
    + """
for last in "$@"; do :; done
if [ -e "$STATE/$(named "$last").enabled" ]; then echo true; else echo false; fi
"""
)

# --- the BSDs: the emitted rc.d script itself runs, on an rc.subr that is small but honest --------

SERVICE = """#!/bin/sh
echo "service $*" >>"$STATE/asked"
exec sh "$UNITS/$1" "$2"
"""
SYSRC = """#!/bin/sh
case $1 in
-n) cat "$STATE/sysrc.${2}" 2>/dev/null ;;
-x) rm -f "$STATE/sysrc.${2}" ;;
*=*) echo "${1#*=}" >"$STATE/sysrc.${1%%=*}" ;;
esac
"""
# daemon(8): -P is its own process id; it ends its child with itself.
DAEMON = """#!/bin/sh
while [ "$1" != -- ]; do
    case $1 in
    -P) pidfile=$2 ;;
    -u) [ "$2" = root ] || exit 1 ;;
    esac
    shift
done
shift
setsid sh -c 'trap "kill \\$child; wait" TERM; "$@" & child=$!; wait' sh "$@" \\
    >"$STATE/daemon.log" 2>&1 </dev/null &
echo $! >"$pidfile"
"""
FREEBSD_SUBR = """
load_rc_config() { :; }
pid() { cat "$pidfile" 2>/dev/null; }
alive() { [ -n "$(pid)" ] && kill -0 "$(pid)" 2>/dev/null; }
run_rc_command() {
    eval "chdir=\\${${name}_chdir} mask=\\${${name}_umask} enabled=\\${$rcvar}"
    case $1 in
    one*) verb=${1#one} ;;
    *) verb=$1; [ "$enabled" = YES ] || return 0 ;;
    esac
    case $verb in
    start) alive || (cd "$chdir" && umask "$mask" && eval "$command $command_args") ;;
    stop) if alive; then kill "$(pid)"; while alive; do sleep 0.02; done; fi; rm -f "$pidfile" ;;
    restart) run_rc_command onestop; run_rc_command onestart ;;
    status) alive ;;
    esac
}
"""
NETBSD_SUBR = """
load_rc_config() { :; }
pid() { cat "$pidfile" 2>/dev/null; }
alive() { [ -n "$(pid)" ] && kill -0 "$(pid)" 2>/dev/null; }
run_rc_command() {
    case ${1#one} in
    start) alive || (eval "$start_cmd") ;;
    stop) if alive; then kill "$(pid)"; while alive; do sleep 0.02; done; fi; rm -f "$pidfile" ;;
    status) alive ;;
    esac
}
"""
# What an emulated program's command line begins with: with CFSSL_PROCESSOR there may be one.
EMULATOR = "([^ ]*binfmt[^ ]* [^ ]* )?"
# OpenBSD's finds a process by its whole command line, from its start.
OPENBSD_SUBR = """
pexp="$daemon${daemon_flags:+ $daemon_flags}"
found() { pgrep -f "^EMULATOR$pexp"; }
rc_cmd() {
    case $1 in
    start) found >/dev/null || {
        [ "$rc_bg" = YES ] || exit 1
        (cd "$daemon_execdir" && setsid sh -c "exec $daemon $daemon_flags" >"$STATE/rc.log" 2>&1 &)
        until found >/dev/null; do sleep 0.02; done
    } ;;
    stop) for pid in $(found); do kill "$pid"; done; while found >/dev/null; do sleep 0.02; done ;;
    check) found >/dev/null ;;
    esac
}
""".replace("EMULATOR", EMULATOR)
RCCTL = """#!/bin/sh
echo "rcctl $*" >>"$STATE/asked"
[ "$1" != -f ] || shift
case $1 in
enable) : >"$STATE/$2.enabled" ;;
disable) rm -f "$STATE/$2.enabled" ;;
get) [ -e "$STATE/$2.enabled" ] ;;
restart) sh "$UNITS/$2" stop && sh "$UNITS/$2" start ;;
*) sh "$UNITS/$2" "$1" ;;
esac
"""

TOOLS: dict[str, dict[str, str]] = {
    "illumos": {
        "svccfg": SVCCFG,
        "svcadm": SVCADM,
        "svcs": SVCS,
        "svcprop": SVCPROP,
        "crontab": CRONTAB,
    },
    "freebsd": {
        "service": SERVICE,
        "sysrc": SYSRC,
        "daemon": DAEMON,
        "rc.subr": FREEBSD_SUBR,
        "crontab": CRONTAB,
    },
    "openbsd": {"rcctl": RCCTL, "rc.subr": OPENBSD_SUBR, "crontab": CRONTAB},
    "netbsd": {"rc.subr": NETBSD_SUBR, "crontab": CRONTAB},
}

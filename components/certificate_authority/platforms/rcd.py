"""rc.d scripts, each as its BSD's rc.subr wants it. All take the service's own process only."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from components.certificate_authority.platforms.base import Service


def name(service: str) -> str:
    """The script's name: rc.subr makes shell variables of it, so no dashes."""
    return "autojoin_" + service.replace("-", "_")


@dataclass(frozen=True)
class Places:
    """Where rc.subr, its helpers and what services leave behind lie."""

    rc_subr: str
    run: str = "/var/run"
    log: str = "/var/log"
    daemon: str = "/usr/sbin/daemon"


def freebsd(service: Service, places: Places) -> str:
    """daemon(8) supervises: it restarts what ends, and logs to syslog what it says.

    rc.subr finds daemon(8) by its own process id file, so it stops that one and its child.
    """
    label = name(service.name)
    daemon = shlex.join(
        (
            *("-r", "-R", "1", "-f", "-S", "-T", label),
            *("-P", f"{places.run}/{label}.pid", "-u", service.user, "--"),
            *service.command,
        )
    )
    requires = " ".join(["NETWORKING", "FILESYSTEMS", *(name(other) for other in service.after)])
    return f"""\
#!/bin/sh
# {service.description}
# PROVIDE: {label}
# REQUIRE: {requires}
# KEYWORD: shutdown

. {places.rc_subr}

name={label}
rcvar={label}_enable
load_rc_config "$name"
: "${{{label}_enable:=NO}}"

pidfile={places.run}/{label}.pid
command={places.daemon}
# Read once more by the shell, so quoted twice.
command_args={shlex.quote(daemon)}
{label}_chdir={shlex.quote(service.state)}
{label}_umask=077

run_rc_command "$1"
"""


def openbsd(service: Service, places: Places) -> str:
    """rc.subr finds the process by its whole command line, which must need no quoting."""
    words = " ".join(service.command)
    if words != shlex.join(service.command):
        raise ValueError(f"{service.name}: words that need quoting can't stand in rc.d: {words}")
    return f"""\
#!/bin/ksh
# {service.description}

daemon={shlex.quote(service.command[0])}
daemon_flags={shlex.quote(" ".join(service.command[1:]))}
daemon_user={shlex.quote(service.user)}
daemon_execdir={shlex.quote(service.state)}
daemon_logger=daemon.info

. {places.rc_subr}

rc_bg=YES
rc_reload=NO

rc_cmd "$1"
"""


def netbsd(service: Service, places: Places, as_user: tuple[str, ...]) -> str:
    """rc.subr puts nothing into the background, so the script does, and keeps the process id.

    `as_user` are the words that become the service's user before its command.
    """
    label = name(service.name)
    requires = " ".join(["NETWORKING", "mountcritremote", *(name(it) for it in service.after)])
    command = shlex.join((*as_user, service.user, *service.command))
    return f"""\
#!/bin/sh
# {service.description}
# PROVIDE: {label}
# REQUIRE: {requires}
# KEYWORD: shutdown

$_rc_subr_loaded . {places.rc_subr}

name={label}
rcvar=$name
pidfile={places.run}/{label}.pid
command={shlex.quote(service.command[0])}
start_cmd={label}_start

{label}_start()
{{
    log={places.log}/{label}.log
    umask 077
    cd {shlex.quote(service.state)} || return 1
    if [ -e "$log" ]; then mv -f "$log" "$log.0"; fi
    {command} >"$log" 2>&1 </dev/null &
    echo $! >"$pidfile"
}}

load_rc_config "$name"
run_rc_command "$1"
"""

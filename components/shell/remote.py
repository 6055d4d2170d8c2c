"""The only room that runs something on a host: commands over SSH, and on this machine."""

from __future__ import annotations

import functools
import shlex
from pathlib import Path
from typing import Any

import pulumi
from pulumi_command import local, remote

from components.shell import reach, ssh
from stack.models import Host, Login

# A machine that is just starting refuses a few times; wide parallel dials meet sshd's MaxStartups.
_DIAL_ERROR_LIMIT = 10
_DIAL_SECONDS = 10


def run(
    name: str,
    host: Host,
    *,
    create: pulumi.Input[str],
    stdin: pulumi.Input[str] | None = None,
    delete: pulumi.Input[str] | None = None,
    triggers: list[Any] | None = None,
    quiet: bool = False,
    protect: bool = False,
    hooks: pulumi.ResourceHookBinding | None = None,
    parent: pulumi.Resource,
    depends_on: list[pulumi.Resource] | None = None,
) -> remote.Command:
    """A command on `host`: run at first and on every change; `delete` when it is removed.

    Secrets belong in `stdin`, which is never shown. `create` must be safe to run again. What it
    prints is streamed; `quiet` keeps its standard output, meant for the program alone, out of it.
    `triggers` replace it: what was there is deleted first, where it was. `protect` keeps it from
    being deleted or replaced. `hooks` run after those that look at the host.
    """
    login = private_key(host)
    return remote.Command(
        name,
        connection=connection(host, login),
        create=_as_root(host, create),
        delete=None if delete is None else _as_root(host, delete),
        stdin=stdin,
        triggers=triggers,
        logging=remote.Logging.STDERR if quiet else remote.Logging.STDOUT_AND_STDERR,
        # Nothing reads them, and sshd's AcceptEnv refuses them, which is four lines of warning.
        add_previous_output_in_env=False,
        opts=pulumi.ResourceOptions(
            parent=parent,
            depends_on=depends_on,
            protect=protect or None,
            # Created first, a replacement would be removed by the `delete` of the one before.
            delete_before_replace=True,
            hooks=pulumi.ResourceHookBinding.merge(reach.before_commands(host, login), hooks),
        ),
    )


def run_here(
    name: str,
    *,
    create: list[str],
    environment: dict[str, str],
    delete: list[str] | None = None,
    stdin: pulumi.Input[str] | None = None,
    triggers: list[Any] | None = None,
    parent: pulumi.Resource,
    depends_on: list[pulumi.Resource] | None = None,
) -> local.Command:
    """A command on the machine that runs this program, given as its words.

    It runs in the project's folder, again on every change; `triggers` replace it.
    """
    return local.Command(
        name,
        create=shlex.join(create),
        delete=shlex.join(delete) if delete else None,
        stdin=stdin,
        environment=environment,
        triggers=triggers,
        opts=pulumi.ResourceOptions(
            parent=parent, depends_on=depends_on, delete_before_replace=True
        ),
    )


def _as_root(host: Host, command: pulumi.Input[str]) -> pulumi.Input[str]:
    if host.user == "root":
        return command
    return pulumi.Output.from_input(command).apply(lambda known: ssh.as_root(host, known))


def connection(host: Host, key: str | None) -> remote.ConnectionArgs:
    """SSH to `host`, its host key pinned, with the private key `key`; None is the SSH agent."""
    through = None
    if host.jump:
        through = remote.ProxyConnectionArgs(**_login(host.jump, private_key(host.jump) or key))
    return remote.ConnectionArgs(**_login(host, key), proxy=through)


def _login(host: Login, key: str | None) -> dict[str, Any]:
    try:
        host_key = ssh.host_key(host)
    except ssh.SshError as error:
        raise pulumi.RunError(str(error)) from None
    return {
        "host": host.address,
        "port": host.port,
        "user": host.user,
        "host_key": host_key,
        "private_key": pulumi.Output.secret(key) if key else None,
        "dial_error_limit": _DIAL_ERROR_LIMIT,
        "per_dial_timeout": _DIAL_SECONDS,
    }


def private_key(host: Login) -> str | None:
    """The key to log in with; None leaves it to the SSH agent."""
    if host.private_key:
        return host.private_key.get_secret_value()
    if host.private_key_file is None:
        return None
    return _read_key(Path(host.private_key_file).expanduser())


@functools.cache
def _read_key(path: Path) -> str | None:
    """A key file's text, and once for all commands a warning where it can't be read."""
    try:
        return path.read_text()
    except OSError as error:
        pulumi.log.warn(f"{path} can't be read ({error.strerror}); the SSH agent is used instead")
        return None

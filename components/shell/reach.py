"""Whether a host lets this program in: looked at once in an `up`, before the first command there.

The command plugin would find out as well, but in words that name no key of the configuration, and
after a minute of dials. A preview reaches no host, so it looks at none; nor does a destroy, which
does not run this program.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pulumi
from pydantic import SecretStr

from components.shell import ssh
from stack.models import Host

# A machine that is just starting refuses a few times.
TRIES = 8
_DELAY_SECONDS, _FACTOR = 0.2, 1.7  # 12 s in all where a port is closed

_looks: dict[tuple[Any, ...], pulumi.ResourceHook] = {}


def before_commands(host: Host, private_key: str | None) -> pulumi.ResourceHookBinding:
    """Hooks for every command on `host`; they fail it with what is wrong, where and what to do.

    `private_key` is the key to log in with, in the clear; None leaves it to the SSH agent.
    """
    # One for the same host with the same login, whoever asks: two clusters share no other.
    key = (host.where, host.address, host.port, host.user, host.host_key, host.jump, private_key)
    if key not in _looks:
        name = f"look at {host.where.removeprefix('autojoin:')}"
        same = sum(where == host.where for where, *_ in _looks)
        name += f" ({same + 1})" if same else ""
        _looks[key] = pulumi.ResourceHook(name, once(lambda: _look(host, private_key)))
    hook = _looks[key]
    return pulumi.ResourceHookBinding(before_create=[hook], before_update=[hook])


def once(work: Callable[[], Awaitable[None]]) -> Callable[[pulumi.ResourceHookArgs], Any]:
    """A hook's function that does `work` for the first that calls it, and all wait for it."""
    begun: list[asyncio.Future[None]] = []

    async def hook(_: pulumi.ResourceHookArgs) -> None:
        if not begun:
            begun.append(asyncio.ensure_future(work()))
        await asyncio.shield(begun[0])

    return hook


async def _look(host: Host, private_key: str | None) -> None:
    """Try as the command plugin would. pulumi.RunError where the host can't be used."""
    there = with_key(host, private_key)
    delay = _DELAY_SECONDS
    for left in reversed(range(TRIES)):
        said = await asyncio.to_thread(ssh.trouble, there)
        if not said:
            return
        if not left or ssh.is_final(said):
            # Of `host`, which still tells where its key came from.
            raise pulumi.RunError(ssh.refusal(host, said))
        await asyncio.sleep(delay)
        delay *= _FACTOR


def with_key(host: Host, private_key: str | None) -> Host:
    """`host`, with the key to log in with in the clear; None is the SSH agent."""
    given = SecretStr(private_key) if private_key else None
    return host.model_copy(update={"private_key": given, "private_key_file": None})

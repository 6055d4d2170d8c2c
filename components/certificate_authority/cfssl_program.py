"""The CFSSL of a CA host: its own where that does what is asked of it, else one that is brought."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

from components.certificate_authority import cfssl, installation
from components.certificate_authority.authority_host import AuthorityHost
from components.shell import here, ssh
from components.shell.here import HereError
from components.shell.ssh import SshError
from stack.models import Host

_INSTALLER = Path(__file__).resolve().parents[2] / "tools/install.py"
# What `uname -m` prints, and what Go calls it.
_ARCHITECTURES = {"x86_64": "amd64", "i86pc": "amd64", "aarch64": "arm64"}
# It is sent 25 MB, and made before on a machine that may be busy.
_SECONDS = 900


def settle(host: Host, authority: AuthorityHost, tell: Callable[[str], None]) -> None:
    """Have a CFSSL on the CA host that does; SshError with what keeps it from that.

    The host tries its own. What there is to say on the way goes to `tell`.
    """

    def on_host(command: str, stdin: str) -> str:
        said: list[str] = []
        answer = ssh.run(host, command, stdin=stdin.encode(), seconds=_SECONDS, said=said)
        for line in said:
            tell(line)
        return answer.decode().strip()

    machine = on_host(installation.choose_command(authority), installation.take_input(authority))
    if machine:
        architecture = _ARCHITECTURES.get(machine, machine)
        tell(
            f"{host.address}: CFSSL {cfssl.VERSION} for {authority.platform}/{architecture} is "
            "brought; where it was never made on this machine, that takes a minute or two"
        )
        program = _made(host, authority.platform, architecture)
        on_host(installation.take_command(authority), installation.take_input(authority, program))


def _made(host: Host, system: str, architecture: str) -> bytes:
    """The program for a platform, made on this machine where it has not been yet."""
    words = [sys.executable, str(_INSTALLER), "cfssl", system, architecture]
    try:
        path = asyncio.run(here.run(words)).splitlines()[-1]
    except HereError as error:
        raise SshError(
            f"autojoin:certificateAuthority.cfssl: {host.address} needs CFSSL {cfssl.VERSION}, "
            f"which can't be made here ({error}); install one with sqlite there, and give its path"
        ) from None
    return Path(path).read_bytes()

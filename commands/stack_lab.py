"""A stack's lab, and the secrets that it takes to reach its hosts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components.load import from_stack_file
from stack.models import Host, Lab
from tools.errors import LabError

_AUTHORITY = "autojoin:certificateAuthority"


@dataclass(frozen=True)
class LabAccess:
    """The lab of a stack file, and the key to log in to its CA's host; None: the SSH agent's."""

    lab: Lab
    private_key: str | None


def access(file: Path) -> LabAccess:
    """ConfigError or LabError where the stack file, or a secret of it, can't be had.

    Only an encrypted private key takes the engine.
    """
    lab = from_stack_file(file)
    return LabAccess(lab, _private_key(lab.certificate_authority.host, file))


def _private_key(host: Host, file: Path) -> str | None:
    if host.private_key_file is not None:
        path = Path(host.private_key_file).expanduser()
        try:
            return path.read_text()
        except OSError as error:
            raise LabError(
                f"{_AUTHORITY}.host.privateKeyFile: {path} can't be read ({error.strerror})"
            ) from None
    if host.private_key is None:
        return None
    from commands import state  # needs the engine

    stack = file.name.removeprefix("Pulumi.").removesuffix(".yaml")
    try:
        return str(state.configuration(stack, file)[_AUTHORITY]["host"]["privateKey"])
    except state.StateError as error:
        raise LabError(f"{_AUTHORITY}.host.privateKey: can't be decrypted: {error}") from None

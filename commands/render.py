"""Write what a person would review or carry by hand: every file of every node, of the CA host, of
Cilium. Needs no engine, lab or network.

The folder is either new, empty, or one that an earlier run made: that run's files are replaced,
anything else in it stays.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cryptography import x509

from components.archive import File
from components.documents import tree
from components.load import from_stack_file
from stack.models import Lab
from stack.problem import ConfigError
from tools.errors import tell

# What this command made in a folder, so that it replaces that and nothing else.
RECORD = ".autojoin-render.json"
JOIN_SECRET = "gate-join-secret"
AUTHORITY = "ca-cfssl"
LAB_STACK = "dev"


class RenderError(Exception):
    """Why nothing was written, as lines for a person."""


@dataclass(frozen=True)
class Known:
    """The lab, and the two values that only the engine knows; None where they are not to be had."""

    lab: Lab
    secret_pem: str | None = None
    authority_pem: str | None = None


def known(file: Path, stack: str, certificate: Path | None, show_secrets: bool) -> Known:
    """What is known of the stack file's lab. ConfigError or RenderError where it can't be used."""
    if not file.exists() and file.name == f"Pulumi.{LAB_STACK}.yaml":
        raise RenderError(f"{file} is not there yet; `make up` and `make check` write it")
    authority_pem = read_certificate(certificate) if certificate else None
    if not show_secrets:
        return Known(from_stack_file(file), None, authority_pem)
    from commands import state  # needs the engine, which plain rendering does not

    try:
        lab = state.lab(stack, file)
        made = {
            resource["urn"].rpartition("::")[2]: resource for resource in state.resources(stack)
        }
        secret = made[JOIN_SECRET]["outputs"]["privateKeyPem"]
        authority = made[AUTHORITY]["outputs"]["stdout"]
    except state.StateError as error:
        raise RenderError(f"SECRETS=show needs the state of stack {stack}: {error}") from None
    except KeyError as error:
        raise RenderError(
            f"SECRETS=show: the state of stack {stack} has no {error.args[0]}; "
            "`pulumi up` makes the join secret and learns the authority's certificate"
        ) from None
    return Known(lab, plain(secret), authority_pem or plain(authority))


def plain(value: object) -> str:
    """A value of the state; the engine wraps decrypted secrets, as JSON text."""
    if isinstance(value, dict) and "plaintext" in value:
        return str(json.loads(value["plaintext"]))
    return str(value)


def read_certificate(path: Path) -> str:
    """A PEM file's text, checked to hold a certificate."""
    try:
        content = path.expanduser().read_text()
        x509.load_pem_x509_certificate(content.encode())
    except OSError as error:
        raise RenderError(f"CERTIFICATE: {path} can't be read ({error.strerror})") from None
    except ValueError:
        raise RenderError(f"CERTIFICATE: {path} holds no certificate in PEM") from None
    return content


# --- the folder -----------------------------------------------------------------------------


def write(files: dict[str, File], folder: Path) -> None:
    """Write `files` into `folder`. RenderError, with nothing changed, where that is not safe."""
    earlier = entries(folder)
    wanted = sorted({PurePosixPath(path).parts[0] for path in files})
    foreign = [name for name in wanted if name not in earlier and os.path.lexists(folder / name)]
    if foreign:
        raise RenderError(
            f"{folder} holds {', '.join(foreign)}, not written by this command; "
            "move that away, or give another OUT"
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".autojoin-", dir=folder) as scratch:
        for path, file in sorted(files.items()):
            write_file(Path(scratch) / path, file)
        # The record first, of both: a cut in between leaves nothing that no run would remove.
        write_record(folder, sorted({*earlier, *wanted}))
        for name in {*earlier, *wanted}:
            if (folder / name).exists():
                shutil.rmtree(folder / name)
        for name in wanted:
            (Path(scratch) / name).rename(folder / name)
    write_record(folder, wanted)


def write_file(path: Path, file: File) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file.mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(file.content)
    path.chmod(file.mode)


def write_record(folder: Path, names: list[str]) -> None:
    temporary = folder / f"{RECORD}.new"
    temporary.write_text(json.dumps({"folders": names}, indent=2) + "\n")
    temporary.replace(folder / RECORD)


def entries(folder: Path) -> list[str]:
    """What an earlier run made in `folder`. RenderError where the folder is somebody else's."""
    try:
        present = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RenderError(f"OUT: {folder} can't be used as a folder ({error.strerror})") from None
    if not present:
        return []
    try:
        names = json.loads((folder / RECORD).read_text())["folders"]
    except FileNotFoundError:
        raise RenderError(
            f"OUT: {folder} is not empty (it holds {present[0]}) and was not made by this command; "
            "give a new or an empty folder"
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise RenderError(f"OUT: {folder / RECORD} is damaged; give another folder") from None
    return [name for name in names if is_own_folder(folder, name)]


def is_own_folder(folder: Path, name: object) -> bool:
    """Whether a name of the record is a plain folder right below `folder`, safe to replace."""
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name:
        return False
    return (folder / name).is_dir() and not (folder / name).is_symlink()


# --- the command ----------------------------------------------------------------------------


def report(found: Known, folder: Path, files: dict[str, File]) -> None:
    names = sorted({path.partition("/")[0] for path in files})
    print(f"{folder}: {len(files)} files in {', '.join(f'{name}/' for name in names)}")
    if found.secret_pem is None:
        print(
            "join keys are REDACTED: these seeds can't join; SECRETS=show takes them from the state"
        )
    else:
        print("join keys are in these files: whoever reads them can join as their node")
    if found.authority_pem is None:
        print(
            "the authority's certificate is a PLACEHOLDER: it is not known without the engine; "
            "CERTIFICATE=path puts it in, and SECRETS=show takes it from the state"
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="commands.render", description=__doc__)
    parser.add_argument("file", type=Path, help="a Pulumi stack file, such as Pulumi.dev.yaml")
    parser.add_argument("out", help="the folder to write to")
    parser.add_argument("--stack", help="the stack whose state has the secrets")
    parser.add_argument("--certificate", type=Path, help="the certificate authority's, in PEM")
    parser.add_argument("--secrets", choices=("redacted", "show"), default="redacted")
    given = parser.parse_args(arguments)
    stack = given.stack or given.file.name.removeprefix("Pulumi.").removesuffix(".yaml")
    try:
        if not given.out:
            raise RenderError("OUT is empty; write OUT=folder")
        found = known(given.file, stack, given.certificate, given.secrets == "show")
        files = tree(found.lab, found.secret_pem, found.authority_pem)
        write(files, Path(given.out).expanduser())
    except (ConfigError, RenderError, ValueError) as error:
        tell(error)
        return 1
    except OSError as error:
        print(f"autojoin: OUT: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    report(found, Path(given.out), files)
    return 0


if __name__ == "__main__":
    sys.exit(main())

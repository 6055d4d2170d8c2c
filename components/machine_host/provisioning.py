"""What a provisioning host gets once for all its nodes: programs, and what their files share."""

from __future__ import annotations

import ipaddress
import shlex

from components.archive import File
from components.machine_host import delivery
from components.machine_host.recipe import ASSEMBLE_SCRIPT, Book, book, recipe
from components.workers import nspawn
from components.workers.hardware import REDACTED
from components.workers.hardware_types import HARDWARE, Hardware
from stack.models import Lab, ProvisioningHost, Worker

_END_OF_PROGRAM = "# --"
_INSTALL = (
    "set -eu; umask 022; work=$(mktemp -d); trap 'rm -rf \"$work\"' EXIT; "
    'trap "exit 1" HUP INT TERM; cd "$work"; '
    f'while IFS= read -r line && [ "$line" != "{_END_OF_PROGRAM}" ]; do '
    'printf "%s\\n" "$line"; done >assemble; '
    "sh ./assemble unpack .; "
    "for part in machine deliver; do [ ! -d $part ] || cp assemble $part/; done; "
    'sh ./assemble install deliver "$1"; sh ./assemble install machine "$2"; '
    '[ ! -d machine ] || "$2/machine" install'
)
_REMOVE = (
    'set -eu; rm -rf "$1/books" "$1/assemble" "$1/deliver"; '
    'rmdir "$1" "${1%/*}" 2>/dev/null || :; [ ! -x "$2/machine" ] || "$2/machine" uninstall'
)


class Provisioning:
    """One provisioning host of a lab."""

    def __init__(self, lab: Lab, name: str):
        self.lab = lab
        self.name = name
        self.host: ProvisioningHost = lab.provisioning[name]
        # The types of hardware that it feeds.
        self.kinds = sorted(
            {each.hardware for each in lab.workers.values() if lab.provisioner_name(each) == name}
        )
        self._books: dict[tuple[str, str], Book] = {}

    def book(self, kind: str, authority_pem: str) -> Book:
        """What the files of all its nodes of one type are made from."""
        known = self._books.get((kind, authority_pem))
        if known is None:
            example = self._example(kind)
            emission = example.emit(None, authority_pem)
            known = book(example.parcel(emission), without=(emission.identity, REDACTED))
            self._books[kind, authority_pem] = known
        return known

    def install_command(self) -> str:
        """Puts `install_input` (standard input) in place; safe to repeat."""
        return self._command(_INSTALL)

    def install_input(self, authority_pem: str) -> str:
        """Standard input for `install_command`: text, so that a preview shows what changes."""
        files: dict[str, File] = {}
        for kind in self.kinds:
            here = self.book(kind, authority_pem)
            part, script = _program(kind)
            files[f"{part}/{part}"] = script
            files[f"{part}/books/{here.name}"] = File(here.text.encode(), 0o600)
        return f"{ASSEMBLE_SCRIPT.read_text()}{_END_OF_PROGRAM}\n{recipe(files)}"

    def remove_command(self) -> str:
        """Removes what `install_command` brought, once no node needs it."""
        return self._command(_REMOVE)

    def _command(self, body: str) -> str:
        records = f"{self.host.directory}/{delivery.RECORDS}"
        return f"sh -c {shlex.join((body, 'provisioning', records, nspawn.PROGRAMS))}"

    def _example(self, kind: str) -> Hardware:
        """A node of a type with nothing of its own: what it is made from is what all share."""
        network = ipaddress.ip_network(self.lab.cluster.node_cidrs[0])
        values = {
            "hardware": kind,
            "address": str(network.network_address + 1),
            "provisioner": self.name,
            "image": "/image",
            "disk": "/dev/disk",
            "mac": "02:00:00:00:00:01" if kind == "bare-metal" else None,
        }
        given = {name: value for name, value in values.items() if value}
        workers = {"node": Worker.model_validate(given)}
        return HARDWARE[kind](self.lab.model_copy(update={"workers": workers}), "node")


def _program(kind: str) -> tuple[str, File]:
    """The program that takes the nodes' files, by its name, which is its folder's too."""
    if kind == nspawn.Nspawn.name:
        return "machine", File(nspawn.MACHINE_SCRIPT.read_bytes(), 0o755)
    return "deliver", File(delivery.DELIVER_SCRIPT.read_bytes(), 0o755)

"""What a provisioning host gets once for all its nodes: programs, and what their files share."""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Sequence

from components.archive import File
from components.machine_host import delivery
from components.machine_host.recipe import ASSEMBLE_SCRIPT, Book, book, recipe
from components.workers.hardware import REDACTED, Hardware, Site
from stack.models import ProvisioningHost, Worker

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
    """A provisioning host, and the nodes that it feeds."""

    def __init__(self, host: ProvisioningHost, nodes: Sequence[Hardware]):
        self.host = host
        # One node of each type that it feeds, by the type's name.
        self.kinds = {node.name: node for node in sorted(nodes, key=lambda it: it.name)}
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
            part = self.kinds[kind].program
            files[f"{part}/{part}"] = File(self.kinds[kind].program_file.read_bytes(), 0o755)
            files[f"{part}/books/{here.name}"] = File(here.text.encode(), 0o600)
        return f"{ASSEMBLE_SCRIPT.read_text()}{_END_OF_PROGRAM}\n{recipe(files)}"

    def remove_command(self) -> str:
        """Removes what `install_command` brought, once no node needs it."""
        return self._command(_REMOVE)

    def _command(self, body: str) -> str:
        records = f"{self.host.directory}/{delivery.RECORDS}"
        return f"sh -c {shlex.join((body, 'provisioning', records, delivery.PROGRAMS))}"

    def _example(self, kind: str) -> Hardware:
        """A node of a type with nothing of its own: what it is made from is what all share."""
        made, site = type(self.kinds[kind]), self.kinds[kind].site
        network = ipaddress.ip_network(site.cluster.node_cidrs[0])
        values = {"hardware": kind, "address": str(network.network_address + 1), **made.example}
        return made(
            "node", Worker.model_validate(values), Site(site.cluster, site.gate_url, self.host)
        )

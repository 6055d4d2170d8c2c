"""What a provisioning host gets once for all its nodes: programs, and what their files share."""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Sequence
from dataclasses import replace

from components.archive import File, text
from components.machine_host import delivery
from components.machine_host.recipe import ASSEMBLE_SCRIPT, Book, book, recipe
from components.workers.hardware import REDACTED, Hardware
from stack.models import ProvisioningHost, Worker

# $1 is the folder of the records of nodes' files, $2 that of the programs that keep machines, $3
# whose they are, $4 the folder of nodes' files.
_INSTALL = """\
set -eu
umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap "exit 1" HUP INT TERM
cd "$work"
while IFS= read -r line && [ "$line" != "# --" ]; do printf "%s\\n" "$line"; done >assemble
sh ./assemble unpack .
for place in "$1" "$2"; do
    [ -s "$place/owner" ] || continue
    owner=$(cat "$place/owner")
    [ "${owner%/*}" = "${3%/*}" ] || {
        echo "$place is of stack ${owner%/*}, not of ${3%/*}: give one of the two another name in" \
            "autojoin:cluster, or remove that folder if the other is no more" >&2
        exit 1
    }
done
for part in machine deliver; do [ ! -d $part ] || cp assemble $part/; done
sh ./assemble install deliver "$1"
sh ./assemble install machine "$2"
for place in "$1" "$2"; do [ ! -d "$place" ] || printf "%s\\n" "$3" >"$place/owner"; done
[ ! -d machine ] || "$2/machine" install
[ ! -x "$2/machine" ] || "$2/machine" keep <names/machine
[ ! -x "$1/deliver" ] || sh "$1/deliver" keep "$4" <names/deliver
"""
_REMOVE = """\
set -eu
for place in "$1" "$2"; do
    [ -s "$place/owner" ] || continue
    owner=$(cat "$place/owner")
    [ "$owner" = "$3" ] || { echo "$place is of $owner by now, not of $3: it stays" >&2; exit 0; }
done
rm -rf "$1/books" "$1/assemble" "$1/deliver" "$1/owner"
rmdir "$1/nodes" "$1" "${1%/*}" "$4" 2>/dev/null || :
[ ! -x "$2/machine" ] || "$2/machine" uninstall
"""


class Provisioning:
    """A provisioning host, and the nodes of one cluster that it feeds.

    `owner` is STACK/NAME: another stack's is left alone, another name takes over.
    """

    def __init__(self, host: ProvisioningHost, cluster: str, owner: str, nodes: Sequence[Hardware]):
        self.host = host
        self.cluster = cluster
        self.owner = owner
        self.nodes = nodes
        # One node of each kind that it feeds; with a controller, if one has it.
        known = sorted(nodes, key=lambda it: (it.kind, it.site.board is not None))
        self.kinds = {node.kind: node for node in known}
        self._books: dict[tuple[str, str], Book] = {}

    def book(self, kind: str, authority_pem: str) -> Book:
        """What the files of all its nodes of one kind are made from."""
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
        files = {f"names/{program}": self._names(program) for program in ("deliver", "machine")}
        for kind in self.kinds:
            here = self.book(kind, authority_pem)
            part = self.kinds[kind].program
            files[f"{part}/{part}"] = File(self.kinds[kind].program_file.read_bytes(), 0o755)
            files[f"{part}/books/{here.name}"] = File(here.text.encode(), 0o600)
        return f"{ASSEMBLE_SCRIPT.read_text()}# --\n{recipe(files)}"

    def remove_command(self) -> str:
        """Removes what `install_command` brought, once no node needs it."""
        return self._command(_REMOVE)

    def _names(self, program: str) -> File:
        """The nodes that a program may have here, one a line."""
        here = [node.node for node in self.nodes if node.program == program]
        return text("".join(f"{name}\n" for name in sorted(here)))

    def _command(self, body: str) -> str:
        directory = self.host.directory
        words = (delivery.records(directory, self.cluster), delivery.programs(self.cluster))
        return f"sh -c {shlex.join((body, 'provisioning', *words, self.owner, directory))}"

    def _example(self, kind: str) -> Hardware:
        """A node of a kind with nothing of its own: what it is made from is what all share."""
        node = self.kinds[kind]
        made, site = type(node), node.site
        network = ipaddress.ip_network(site.cluster.node_cidrs[0])
        values = {
            "hardware": node.name,
            "address": str(network[min(1, network.num_addresses - 1)]),
            **node.example,
            **node.variant,
        }
        here = replace(site, host=self.host)
        return made("node", Worker.model_validate(values), here)

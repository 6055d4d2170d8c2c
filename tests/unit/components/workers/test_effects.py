"""What an edit means for a machine: the table, and that the docs have it."""

from __future__ import annotations

import pytest

from components.certificate_authority.authority_host import AuthorityHost
from components.join_gate import installation as join_gate
from components.machine_host import delivery
from components.workers import nspawn
from components.workers.effects import EFFECTS, effect, identity
from tools.pins import CHECKOUT

NOTHING: set[str] = set()
HOST = AuthorityHost("linux", "192.0.2.2", "existing", "/ca.pem", "/ca-key.pem", {}, 720)


@pytest.mark.parametrize("kind", EFFECTS)
def test_the_docs_say_what_it_means(kind: str) -> None:
    rows = [line for line in (CHECKOUT / "docs/day-two.md").read_text().splitlines()]
    assert [row for row in rows if row.startswith("|") and f"`{kind}`" in row]


@pytest.mark.parametrize(
    ("started_here", "anew", "registration", "delivery", "kind", "follows_seed"),
    [
        (True, True, {"stdin", "delete"}, NOTHING, "re-provisioned", True),
        (True, True, NOTHING, {"stdin", "triggers"}, "re-provisioned", True),
        (False, True, {"stdin", "delete"}, {"stdin"}, "to be provisioned anew", True),
        (True, False, {"stdin"}, NOTHING, "registered again", True),
        (True, False, {"stdin"}, {"stdin"}, "registered again", True),
        (True, False, NOTHING, {"stdin"}, "settings changed", True),
        (True, False, NOTHING, {"triggers"}, "made anew without a key", True),
        (False, False, {"stdin"}, {"stdin"}, "seed delivered anew", True),
        (False, False, NOTHING, {"triggers"}, "seed delivered anew", True),
        (False, False, NOTHING, {"connection"}, "settings changed", True),
        (True, False, NOTHING, NOTHING, "untouched", True),
        (True, True, {"stdin", "delete"}, {"stdin"}, "re-installed", False),
        (False, True, {"stdin", "delete"}, {"stdin"}, "to be provisioned anew", False),
        (True, False, NOTHING, {"stdin"}, "seed delivered anew", False),
        (True, False, NOTHING, {"stdin", "triggers"}, "made anew without a key", False),
    ],
)
def test_what_an_edit_means(
    started_here: bool,
    anew: bool,
    registration: set[str],
    delivery: set[str],
    kind: str,
    follows_seed: bool,
) -> None:
    assert effect(started_here, follows_seed, anew, registration, delivery) == kind


@pytest.mark.parametrize(
    "command",
    [
        join_gate.remove_node_command(HOST, "worker-1", "worker-1-g1-0"),
        delivery.remove_command("worker-1", "/a b", "/a b/.autojoin/c", "worker-1-g1-0"),
        nspawn.remove_command("/programs/machine", "worker-1", "worker-1-g1-0"),
    ],
)
def test_every_delete_names_what_it_deletes(command: str) -> None:
    assert identity({"delete": command}) == "worker-1-g1-0"
    assert identity({}) is None

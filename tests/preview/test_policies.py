"""Rules that hold of every stack, over the state that the engine itself wrote.

They are what a policy pack would say; see docs/decisions.md. Each is tried on a broken state too.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from components import documents
from components.certificate_authority.platforms import PLATFORMS
from components.load import from_values
from components.workers.hardware_types import HARDWARE
from tests.preview.deployed import Deployed
from tests.unit.stack.test_load import VALUES

State = list[dict[str, Any]]
_SECRET = "4dabf18193072939515e22adb298388d"
_PRIVATE = re.compile(r"BEGIN [A-Z ]*PRIVATE KEY")
# Whose private keys may be in the state: made there, or for the CA host alone.
_KEYS = {"gate-key", "gate-request", "gate-renewal", "gate-join-secret", "gate-service"}
_KEYS |= {"ca-ocsp-key", "ca-ocsp-request"}


def opened(value: Any) -> Any:
    """A value of the state with its decrypted secrets in place."""
    if isinstance(value, dict) and _SECRET in value:
        return opened(json.loads(value["plaintext"])) if "plaintext" in value else "[encrypted]"
    if isinstance(value, dict):
        return {key: opened(item) for key, item in value.items()}
    return [opened(item) for item in value] if isinstance(value, list) else value


def closed(value: Any) -> Any:
    """A value of the state without what is secret in it."""
    if isinstance(value, dict) and _SECRET in value:
        return "[secret]"
    if isinstance(value, dict):
        return {key: closed(item) for key, item in value.items()}
    return [closed(item) for item in value] if isinstance(value, list) else value


def named(state: State) -> dict[str, dict[str, Any]]:
    return {resource["urn"].rpartition("::")[2]: resource for resource in state}


# --- the rules: each gives what breaks it -------------------------------------------------------


def no_unpinned_host_key(state: State) -> list[str]:
    return [
        name
        for name, resource in named(state).items()
        if resource["type"] == "command:remote:Command"
        and not str(opened(resource["inputs"])["connection"].get("hostKey", "")).startswith("ssh-")
    ]


def no_shared_key(state: State) -> list[str]:
    """Every worker's registration has a join key, and no two the same."""
    seen: dict[str, str] = {}
    broken = []
    for name, resource in named(state).items():
        if not name.endswith("-registration"):
            continue
        key = json.loads(opened(resource["inputs"])["stdin"]).get("joinKey", "")
        if len(key) < 64 or key in seen:
            broken.append(name)
        seen[key] = name
    return broken


def no_private_key_but_the_programs_own(state: State) -> list[str]:
    """So none of the certificate authority, and none to log in with."""
    return [
        name
        for name, resource in named(state).items()
        if name not in _KEYS and _PRIVATE.search(json.dumps(opened(resource)))
    ]


def nothing_secret_in_the_clear(state: State) -> list[str]:
    secrets = [opened(resource["inputs"]) for resource in state if "inputs" in resource]
    keys = [
        json.loads(inputs["stdin"])["joinKey"]
        for inputs in secrets
        if "joinKey" in str(inputs.get("stdin", ""))
    ]
    broken = []
    for name, resource in named(state).items():
        plain = json.dumps(closed(resource))
        if _PRIVATE.search(plain) or any(key in plain for key in keys):
            broken.append(name)
    return broken


RULES = [
    no_unpinned_host_key,
    no_shared_key,
    no_private_key_but_the_programs_own,
    nothing_secret_in_the_clear,
]


@pytest.fixture(scope="module")
def state(stack: Deployed) -> State:
    return stack.state()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule: Callable[[State], list[str]], state: State) -> None:
    assert rule(state) == []


# --- the rules can fail ---------------------------------------------------------------------------


def unpinned(state: State) -> str:
    inputs = named(state)["ca-cfssl"]["inputs"]
    inputs["connection"] = {"host": "203.0.113.2"}
    return "ca-cfssl"


def shared(state: State) -> str:
    resources = named(state)
    # In the order of the state, which is that in which the engine was done with them.
    first, second, *_ = (name for name in resources if name.endswith("-registration"))
    resources[second]["inputs"] = resources[first]["inputs"]
    return second


def with_a_key(state: State) -> str:
    named(state)["ca-cfssl"]["outputs"]["stderr"] = "-----BEGIN EC PRIVATE KEY-----"
    return "ca-cfssl"


def in_the_clear(state: State) -> str:
    resource = named(state)["node-1-registration"]
    resource["inputs"]["stdin"] = opened(resource["inputs"]["stdin"])
    return "node-1-registration"


@pytest.mark.parametrize(
    ("rule", "break_it"),
    list(zip(RULES, [unpinned, shared, with_a_key, in_the_clear], strict=True)),
    ids=lambda each: each.__name__,
)
def test_a_broken_state_is_found(
    rule: Callable[[State], list[str]], break_it: Callable[[State], str], state: State
) -> None:
    broken = copy.deepcopy(state)
    assert break_it(broken) in rule(broken)


# --- and of what is rendered ----------------------------------------------------------------------


@pytest.mark.parametrize("platform", sorted(PLATFORMS))
def test_cfssl_is_on_loopback_with_everything_else_disabled(platform: str) -> None:
    authority = {**VALUES["certificateAuthority"], "platform": platform}
    files = documents.authority_files(from_values({**VALUES, "certificateAuthority": authority}))
    serving = [
        text for file in files.values() if "-disable" in (text := file.content.decode("latin-1"))
    ]
    assert serving, "no service starts CFSSL"
    for text in serving:
        assert re.search(r"-address[= ]'?127\.0\.0\.1", text)
        assert "0.0.0.0" not in text
        for endpoint in ("newcert", "newkey", "init_ca", "revoke", "certadd", "ocspsign"):
            assert endpoint in text


def test_no_rendered_file_with_a_secret_is_readable_for_others(state: State) -> None:
    """But for the boot server's web tree of bare metal, which the installer reads; see trust.md."""
    made = named(state)
    secret = opened(made["gate-join-secret"]["outputs"])["privateKeyPem"]
    certificate = opened(made["ca-pair"]["outputs"])["stdout"]
    workers = {
        name: worker for name, worker in VALUES["workers"].items() if worker["hardware"] in HARDWARE
    }
    lab = from_values({**VALUES, "workers": workers})
    shown = documents.tree(lab, secret, certificate)
    blank = documents.tree(lab, None, certificate)
    with_secret = {path for path, file in shown.items() if file != blank[path]}
    assert with_secret
    # An identity differs by which secret it is, and tells nothing of it: 32 bits of a digest.
    facts = {path for path in with_secret if path.endswith("/node.json")}
    for path in facts:
        one, other = (json.loads(tree[path].content) for tree in (shown, blank))
        assert {key for key in one if one[key] != other[key]} == {"identity"}
    with_secret -= facts
    open_to_all = {path for path in with_secret if shown[path].mode & 0o077}
    assert {path for path in open_to_all if "/http/" not in path} == set()

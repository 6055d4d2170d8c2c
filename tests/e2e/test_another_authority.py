"""One CA takes another one's place in the lab, by four edits, while work goes on.

The API server's certificate is of a CA of its own (`apiServerCertificateAuthority`): the lab's has
the old one's, and its owner would give it another one between the last two edits.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e.conftest import Lab, own_lab
from tests.e2e.test_carries_work import WORKERS, address_of, apply, ask, inside, pod, service, until

FOLDER = "/etc/kubernetes-ca"
OLD = {"certificate": f"{FOLDER}/ca.pem", "key": f"{FOLDER}/ca-key.pem"}
NEW = {"certificate": f"{FOLDER}/next.pem", "key": f"{FOLDER}/next-key.pem"}
# By openssl, as a person makes one.
MAKE = f"""
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
    -subj /CN=kubernetes-ca-next -addext keyUsage=critical,keyCertSign,cRLSign \
    -keyout {NEW["key"]} -out {NEW["certificate"]}
"""
# What the API server's owner edits; the lab has one file for both flags.
API_SERVERS = "/etc/kubernetes/pki/ca.pem"
KEEPS = "keeps running; where another CA is to be trusted, the gate tells it"


@dataclass
class Traffic:
    """Asks all the time, by what each of `asked` does; what was not answered is in `failed`."""

    asked: dict[str, Callable[[], bool]]
    counts: dict[str, int] = field(default_factory=dict)
    failed: list[tuple[str, float]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.threads = [threading.Thread(target=self._ask, args=it) for it in self.asked.items()]
        for thread in self.threads:
            thread.start()

    def _ask(self, name: str, does: Callable[[], bool]) -> None:
        while not self.ended.wait(0.1):
            self.counts[name] = self.counts.get(name, 0) + 1
            if not does():
                self.failed.append((name, time.time()))

    def end(self) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()


def with_a_pinned_api_server(lab: Lab) -> None:
    lab.run("python", "-c", "from lab import lab, stack; lab.up(stack.prepare())")
    pem = lab.on_authority(f"cat {OLD['certificate']}")

    def pin(config: dict[str, Any]) -> None:
        config["autojoin:cluster"]["apiServerCertificateAuthority"] = pem

    lab.edit(pin)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with own_lab(with_a_pinned_api_server) as lab:
        yield lab


@pytest.fixture(scope="module")
def traffic(lab: Lab) -> Iterator[Traffic]:
    """From the API server, restarted by its owner for the first edit, to the end of all."""
    lab.on_authority(MAKE)
    new = lab.on_authority(f"cat {NEW['certificate']}")
    old = lab.on_authority(f"cat {OLD['certificate']}")
    lab.on_hypervisor(f"cat >{API_SERVERS} <<'END'\n{old.strip()}\n{new.strip()}\nEND")
    lab.on_hypervisor("systemctl restart kube-apiserver")
    assert until(lambda: lab.run("kubectl", "get", "--raw", "/readyz", check=False) == "ok")
    items: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "work"}}
    ]
    items += [pod(f"pod-{name[-1]}", name, group="all") for name in WORKERS]
    items.append(service("all", {"group": "all"}, type="LoadBalancer"))
    apply(lab, *items)
    lab.run("kubectl", "-n", "work", "wait", "--for=condition=Ready", "pod", "--all",
            "--timeout=120s")  # fmt: skip
    address = address_of(lab, "all")
    assert until(lambda: ask(address))
    traffic = Traffic(
        {
            "api": lambda: lab.run("kubectl", "get", "--raw", "/api/v1/nodes", check=False) != "",
            "service": lambda: ask(address, seconds=5).startswith("pod-"),
        }
    )
    yield traffic
    traffic.end()


def nodes(lab: Lab) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        lab.on_authority("/usr/local/lib/autojoin/gate status")
    )["nodes"]
    return found


def edit(lab: Lab, signs: dict[str, str], also: dict[str, str] | None) -> None:
    def change(config: dict[str, Any]) -> None:
        authority = config["autojoin:certificateAuthority"]
        authority.pop("also", None)
        authority |= {**signs, **({"also": also} if also else {})}

    lab.edit(change)


def nodes_are(lab: Lab) -> dict[str, str]:
    found = lab.kubectl("get", "nodes")["items"]
    return {it["metadata"]["name"]: it["metadata"]["uid"] for it in found}


def step(lab: Lab, signs: dict[str, str], also: dict[str, str] | None) -> None:
    """An edit, its preview, its `up`, and what nodes do within the hour."""
    edit(lab, signs, also)
    before = nodes_are(lab)
    previewed = lab.make("preview")
    for name in WORKERS:
        assert f"~ {name}: known only after the CA host ran" in previewed, previewed
    assert previewed.count(KEEPS) == len(WORKERS)
    assert "revoked of" not in previewed and "issued to" not in previewed
    lab.make("up")
    assert nodes_are(lab) == before
    for name in WORKERS:
        lab.in_worker(name, "rm -f /run/autojoin/trust-asked")
    assert until(lambda: all(it["trusts"] and it["ofSigner"] for it in nodes(lab)), 240), nodes(lab)


def issuers(lab: Lab) -> set[str]:
    pair = "/var/lib/kubelet/pki/kubelet-client-current.pem"
    show = f"openssl x509 -noout -issuer -nameopt RFC2253 -in {pair}"
    return {lab.in_worker(name, show).strip() for name in WORKERS}


def test_a_new_one_can_not_sign_at_one_blow(lab: Lab, traffic: Traffic) -> None:
    edit(lab, NEW, OLD)
    said = lab.make("up", expect=1)
    assert "the CA that is to sign is trusted by no node: name it as `also` first" in said
    assert "nothing was changed" in said


def test_both_are_trusted(lab: Lab, traffic: Traffic) -> None:
    step(lab, OLD, NEW)
    assert issuers(lab) == {"issuer=CN=kubernetes-ca"}
    certificates = "grep -c BEGIN /etc/autojoin/ca.pem"
    assert {lab.in_worker(name, certificates).strip() for name in WORKERS} == {"2"}


def test_the_new_one_signs_and_all_renew(lab: Lab, traffic: Traffic) -> None:
    step(lab, NEW, OLD)
    assert issuers(lab) == {"issuer=CN=kubernetes-ca-next"}
    # The API server believes the kubelets that serve with it.
    for name in WORKERS:
        assert inside(lab, f"pod-{name[-1]}", "hostname").strip() == f"pod-{name[-1]}"


def test_the_old_one_goes(lab: Lab, traffic: Traffic) -> None:
    step(lab, NEW, None)
    certificates = "grep -c BEGIN /etc/autojoin/ca.pem"
    assert {lab.in_worker(name, certificates).strip() for name in WORKERS} == {"1"}
    assert "unchanged" in lab.make("up")
    lab.make("status")


def test_nothing_was_lost(lab: Lab, traffic: Traffic) -> None:
    traffic.end()
    print(traffic.counts)
    assert all(count > 100 for count in traffic.counts.values())
    assert set(traffic.counts) == set(traffic.asked)
    assert traffic.failed == []

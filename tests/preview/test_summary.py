"""Two dozen typical edits of a deployed stack: the summary says exactly what changes, nothing else.

Each is a real preview by the engine; summaries/EDIT.txt is what it must say (`make golden` writes
them anew; read the diff).
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from components import summary
from tests.preview.conftest import KEY
from tests.preview.deployed import Change, Config, Deployed

HERE = Path(__file__).parent / "summaries"


# --- the edits --------------------------------------------------------------------------------


def nothing(config: Config) -> None:
    """The file as it is."""


def add_a_worker(config: Config) -> None:
    config["autojoin:workers"]["node-4"] = {
        **config["autojoin:workers"]["node-1"],
        "address": "203.0.113.14",
    }


def add_bare_metal(config: Config) -> None:
    config["autojoin:boards"] = {"bmc": {"protocol": "wake-on-lan", "address": "203.0.113.255"}}
    config["autojoin:workers"]["metal"] = {
        "hardware": "bare-metal",
        "address": "203.0.113.15",
        "mac": "02:00:00:00:00:15",
        "disk": "/dev/sda",
        "bmc": "bmc",
    }


def remove_a_worker(config: Config) -> None:
    del config["autojoin:workers"]["node-3"]


def rename_a_worker(config: Config) -> None:
    config["autojoin:workers"]["node-9"] = config["autojoin:workers"].pop("node-3")


def raise_a_generation(config: Config) -> None:
    config["autojoin:workers"]["node-2"]["generation"] = 2


def raise_every_generation(config: Config) -> None:
    for worker in config["autojoin:workers"].values():
        worker["generation"] = 2


def move_an_address(config: Config) -> None:
    config["autojoin:workers"]["node-2"]["address"] = "203.0.113.22"


def label_a_worker(config: Config) -> None:
    config["autojoin:workers"]["node-2"]["labels"] = {"bgp": "worker", "rack": "b"}


def taint_a_worker(config: Config) -> None:
    config["autojoin:workers"]["node-2"]["taints"] = ["dedicated=database:NoSchedule"]


def another_image(config: Config) -> None:
    config["autojoin:workers"]["node-2"]["image"] = "/srv/worker-2"


def wait_longer_for_a_join(config: Config) -> None:
    config["autojoin:workers"]["node-2"]["joinTimeout"] = 600


def another_resolver(config: Config) -> None:
    config["autojoin:cluster"]["dnsServers"] = ["203.0.113.1", "203.0.113.2"]


def another_kubelet(config: Config) -> None:
    config["autojoin:cluster"]["kubernetesVersion"] = "1.34.1"


def add_a_pool(config: Config) -> None:
    config["autojoin:bgp"]["loadBalancerPools"].append({"name": "b", "cidrs": ["192.168.60.0/24"]})


def grow_a_pool(config: Config) -> None:
    config["autojoin:bgp"]["loadBalancerPools"][0]["cidrs"].append("192.168.51.0/24")


def remove_the_pool(config: Config) -> None:
    config["autojoin:bgp"]["loadBalancerPools"] = []


def add_a_peer(config: Config) -> None:
    peers = config["autojoin:bgp"]["peers"]
    peers.insert(0, {"name": "second", "address": "203.0.113.9", "asn": 65002})


def another_asn(config: Config) -> None:
    config["autojoin:bgp"]["localAsn"] = 65011


def advertise_less(config: Config) -> None:
    config["autojoin:bgp"]["advertise"] = {"services": ["LoadBalancerIP"]}


def without_bgp(config: Config) -> None:
    del config["autojoin:bgp"]


def set_a_chart_value(config: Config) -> None:
    config["autojoin:cilium"]["values"] = {"debug": {"enabled": True}}


def shorter_certificates(config: Config) -> None:
    config["autojoin:certificateAuthority"]["nodeCertificateHours"] = 24


def a_key_to_log_in_with(config: Config) -> None:
    host = config["autojoin:certificateAuthority"]["host"]
    host["privateKeyFile"] = str(Path(config["autojoin:cluster"]["kubeconfig"]).parents[1] / "key")


def trust_another_authority(config: Config) -> None:
    config["autojoin:certificateAuthority"]["also"] = {
        "certificate": "/etc/kubernetes-ca/next.pem",
        "key": "/etc/kubernetes-ca/next-key.pem",
    }


def another_authority_and_a_generation(config: Config) -> None:
    trust_another_authority(config)
    raise_a_generation(config)


def add_and_remove_and_renew(config: Config) -> None:
    add_a_worker(config)
    remove_a_worker(config)
    raise_a_generation(config)


EDITS = [
    nothing, add_a_worker, add_bare_metal, remove_a_worker, rename_a_worker, raise_a_generation,
    raise_every_generation, move_an_address, label_a_worker, taint_a_worker, another_image,
    wait_longer_for_a_join, another_resolver, another_kubelet, add_a_pool, grow_a_pool,
    remove_the_pool,
    add_a_peer, another_asn, advertise_less, without_bgp, set_a_chart_value,
    shorter_certificates, a_key_to_log_in_with, add_and_remove_and_renew,
    trust_another_authority, another_authority_and_a_generation,
]  # fmt: skip


@pytest.fixture(scope="module")
def previews(stack: Deployed) -> dict[str, str]:
    return stack.previews({edit.__name__: edit for edit in EDITS})


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_summary(edit: Change, previews: dict[str, str]) -> None:
    shown = summary.text(summary.summarise(summary.read(previews[edit.__name__])))
    # Seeds hold keys that are made anew in each run; what a host gets has paths of this machine.
    shown = re.sub(r"seed [0-9a-f]{8} → [0-9a-f]{8}", "seed … → …", shown) + "\n"
    shown = re.sub(r"and \d+ lines more", "and … lines more", shown)
    file = HERE / f"{edit.__name__}.txt"
    if os.environ.get("REFRESH"):
        file.write_text(shown)
    assert shown == file.read_text()


def test_no_step_of_the_engine_is_left_out(previews: dict[str, str]) -> None:
    """Whatever the engine changes is in a node's line, a section's, or follows the nodes'."""
    for name, events in previews.items():
        read = summary.read(events)
        found = summary.summarise(read)
        changed = [step for step in read.steps if step.changes]
        of_nodes = [step for step in changed if summary.of_worker(step)]
        lines = sum(len(changes) for changes in found.sections.values())
        silent = [step for step in changed if step.type.startswith("autojoin:")]
        followers = [step for step in changed if step.name in summary.FOLLOWERS]
        told = len(of_nodes) + lines + len([step for step in silent if step not in of_nodes])
        assert told in (len(changed), len(changed) - len(followers)), name


def test_no_secret_is_in_what_is_read_or_shown(previews: dict[str, str]) -> None:
    for events in previews.values():
        assert KEY not in events
        assert not re.search(r"BEGIN [A-Z ]*PRIVATE KEY", events)
        data = json.dumps(summary.as_data(summary.summarise(summary.read(events))))
        assert "[secret]" not in data


ANEW = "re-provisioned: drained, its DISK IS ERASED, starts and joins anew"

OVER = "installed: switched on, its DISK IS WRITTEN OVER, joins"


@pytest.mark.parametrize(
    ("edit", "marks"),
    [
        (raise_a_generation, {"node-2": ("warning", ANEW)}),
        (another_image, {"node-2": ("warning", ANEW)}),
        (wait_longer_for_a_join, {}),
        (add_a_worker, {}),
        (add_bare_metal, {"metal": ("warning", OVER)}),
        (nothing, {}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_plain_preview_marks_what_an_edit_means(
    edit: Change, marks: dict[str, tuple[str, str]], previews: dict[str, str]
) -> None:
    found = {}
    for line in previews[edit.__name__].splitlines():
        told = json.loads(line).get("diagnosticEvent", {}) if '"diagnosticEvent"' in line else {}
        if "autojoin:workers:" in told.get("urn", ""):
            shown = re.sub(r"<\{%.*?%\}>", "", told["message"]).strip()
            found[told["urn"].rpartition("::")[2]] = told["severity"].split("#")[0], shown
    assert found == marks


def test_for_a_program(previews: dict[str, str]) -> None:
    data = summary.as_data(summary.summarise(summary.read(previews["add_and_remove_and_renew"])))
    nodes = {kind: sorted(found) for kind, found in data["nodes"].items() if found}
    assert nodes == {
        "added": ["node-4"],
        "removed": ["node-3"],
        "re-provisioned": ["node-2"],
        "untouched": ["node-1"],
    }
    assert data["certificates"] == {"issued": ["node-2", "node-4"], "revoked": ["node-2", "node-3"]}
    assert data["sections"] == {
        "Provisioning hosts": [
            {"op": "update", "what": "hypervisor", "details": ["- node-3", "+ node-4"]}
        ]
    }


def test_a_replaced_command_is_removed_before_it_is_made_anew(stack: Deployed) -> None:
    """The other way round `--replace` of ca-cfssl left the host without CFSSL."""
    order = stack.replaced("ca-cfssl")
    assert order.index("delete-replaced") < order.index("create-replacement")

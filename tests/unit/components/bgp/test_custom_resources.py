"""Every kind of resource that can be emitted, taken by a real API server with Cilium's real CRDs.

Strict server-side validation: an unknown field, which a plain apply prunes silently, is an error.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from components.bgp import resources as bgp
from stack.bgp import Bgp
from stack.models import Lab
from tests.unit.components.bgp import bgp_examples
from tests.unit.components.cilium.crds import await_crds
from tests.unit.tools.plugins.kubernetes_server import ApiError, ApiServer, running
from tools.pins import Layout

RELEASES = {"1.17": "1.17.0", "1.18": "1.18.4", "1.19": "1.19.4", "1.20": "1.20.2"}


@dataclass(frozen=True)
class Cluster:
    """An API server that has the CRDs of one release of Cilium."""

    version: str
    server: ApiServer

    def validate(self, resources: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What `kubectl apply --server-side --dry-run=server --validate=strict` sends; ApiError.

        Not through kubectl: it falls back to its own validation while the kinds are new.
        """
        query = "fieldManager=test&fieldValidation=Strict&dryRun=All"
        kind = "application/apply-patch+yaml"
        return [
            self.server.request("PATCH", f"{path(item)}?{query}", item, kind) for item in resources
        ]


def path(item: dict[str, Any]) -> str:
    """Where the API server has a resource."""
    metadata = item["metadata"]
    if item["kind"] == "Secret":
        return f"/api/v1/namespaces/{metadata['namespace']}/secrets/{metadata['name']}"
    return f"/apis/{item['apiVersion']}/{bgp.PLURALS[item['kind']]}/{metadata['name']}"


def listed(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "List", "items": items}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with running(tmp_path_factory.mktemp("custom-resources")) as server:
        yield server


@pytest.fixture(scope="module", params=sorted(RELEASES))
def cluster(request: pytest.FixtureRequest, server: ApiServer) -> Cluster:
    names = ("ciliumbgp", "ciliumloadbalancerippools")
    folder = Layout().test_file(f"cilium-crds-{request.param}")
    files = [path for path in folder.rglob("*.yaml") if path.name.startswith(names)]
    crds = [yaml.safe_load(path.read_text()) for path in files]
    assert len(crds) >= 6
    found = server.kubectl("get", "crds", "-o", "name").split()
    if found:
        server.kubectl("delete", "--timeout=60s", *found)
    # What the operator does: CRDs are made, and their kinds are served a moment later.
    server.kubectl("create", "-f", "-", stdin=listed(crds))
    served = [f"{crd['metadata']['name']}/{crd['spec']['versions'][0]['name']}" for crd in crds]
    await_crds(server.kubeconfig, *served)
    wait_until_listed(server, [crd["metadata"]["name"] for crd in crds])
    return Cluster(RELEASES[request.param], server)


def wait_until_listed(server: ApiServer, definitions: list[str]) -> None:
    """Else the API server can't list what goes with a CRD that is deleted again within a second,
    and asks again only minutes later."""
    deadline = time.monotonic() + 30
    while True:
        try:
            server.kubectl("get", ",".join(definitions))
            return
        except AssertionError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def resources(lab: Lab) -> list[dict[str, Any]]:
    assert lab.bgp
    secrets = bgp.secrets(lab.bgp, show=True)
    return [*secrets, *bgp.custom_resources(lab.cilium.version, lab.bgp)]


@pytest.mark.parametrize("example", [bgp_examples.lab, bgp_examples.full_lab])
def test_every_resource_is_taken_whole(cluster: Cluster, example: Any) -> None:
    wanted = resources(example(cluster.version))
    taken = cluster.validate(wanted)
    assert [item["metadata"]["name"] for item in taken] == [
        item["metadata"]["name"] for item in wanted
    ]
    for item, given in zip(taken, wanted, strict=True):
        # The server moves the text of a Secret, which is write-only, into its data.
        assert lost(given.get("spec"), item.get("spec")) == []


def lost(given: Any, taken: Any, path: str = "spec") -> list[str]:
    """Paths of `given` that `taken` lacks or has otherwise; what defaulting adds is fine."""
    if isinstance(given, dict) and isinstance(taken, dict):
        return [
            entry
            for name, value in given.items()
            for entry in lost(value, taken.get(name), f"{path}.{name}")
        ]
    if isinstance(given, list) and isinstance(taken, list) and len(given) == len(taken):
        pairs = enumerate(zip(given, taken, strict=True))
        return [entry for at, pair in pairs for entry in lost(*pair, f"{path}[{at}]")]
    return [] if given == taken else [path]


def test_all_kinds_and_every_field_of_ours_are_among_them() -> None:
    """What the test above proves is only as much as its example holds."""
    emitted = resources(bgp_examples.full_lab())
    assert {item["kind"] for item in emitted} == {"Secret", *bgp.PLURALS}
    unused = Bgp.model_fields.keys() - bgp_examples.full_lab().bgp.model_fields_set  # type: ignore[union-attr]
    assert unused == set()


def test_an_unknown_field_is_refused(cluster: Cluster) -> None:
    """That the validation can fail at all."""
    (pool,) = (
        item
        for item in resources(bgp_examples.lab(cluster.version))
        if item["kind"] == "CiliumLoadBalancerIPPool"
    )
    pool["spec"]["cidrs"] = pool["spec"].pop("blocks")
    with pytest.raises(ApiError, match=r"spec\.cidrs: field not declared in schema"):
        cluster.validate([pool])


@pytest.mark.parametrize(
    ("key", "value"),
    [("port", 179), ("advertise", {"aggregationLengthIpv4": 24})],
)
def test_what_1_17_lacks_would_be_lost_there(cluster: Cluster, key: str, value: Any) -> None:
    """The reason for `missing_bgp_keys`: the CRDs of 1.17 don't have these fields."""
    bgp_section = {**bgp_examples.POST["bgp"], key: value}
    lab = bgp_examples.lab("1.18.4", bgp=bgp_section)
    assert lab.bgp
    wanted = bgp.custom_resources(cluster.version, lab.bgp)
    if cluster.version == "1.17.0":
        with pytest.raises(ApiError, match="field not declared in schema"):
            cluster.validate(wanted)
    else:
        cluster.validate(wanted)

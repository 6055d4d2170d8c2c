"""What Cilium's chart wants to find in the cluster: looked up, required, or put there first."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

from components import from_lab
from components.cilium import versions as cilium_versions
from components.shell import kubectl, remote
from stack.models import Cilium, Cluster
from stack.problem import shortened

CRD_GATE = Path(__file__).parent / "crd-gate.sh"
INSTALL_SECONDS = 60
PRESENT_SECONDS = 5


@dataclass(frozen=True)
class Need:
    """One thing that some values need: CRDs as NAME/VERSION, or a namespace.

    `section` is its key in autojoin:cilium, `values` are the paths of what it decides.
    """

    section: str
    resource: str
    mode: str
    values: tuple[str, ...]
    definitions: tuple[str, ...] = ()
    namespace: str = ""
    source: str = ""


def needs(settings: Cilium) -> list[Need]:
    """Every need of the chart's values, whatever its mode."""
    version = cilium_versions.of(settings.version)
    modes = from_lab.cilium_modes(settings)
    gateway, monitors = settings.gateway_api, settings.service_monitors
    return [
        Need(
            "gatewayApi",
            "gateway-api",
            modes["gatewayApi"],
            ("gatewayAPI",),
            definitions=version.gateway_definitions(),
            source=gateway.source or cilium_versions.gateway_api_source(version),
        ),
        Need(
            "serviceMonitors",
            "service-monitors",
            modes["serviceMonitors"],
            (
                "prometheus.serviceMonitor",
                "operator.prometheus.serviceMonitor",
                "hubble.metrics.serviceMonitor",
                "hubble.relay.prometheus.serviceMonitor",
            ),
            definitions=(cilium_versions.SERVICE_MONITOR,),
            source=monitors.source or cilium_versions.SERVICE_MONITOR_SOURCE,
        ),
        Need(
            "dashboards",
            "dashboards",
            modes["dashboards"],
            ("hubble.metrics.dashboards",),
            namespace=settings.dashboards.namespace,
        ),
    ]


@dataclass(frozen=True)
class Answer:
    """What the cluster says of the needs on `auto`: the sections whose needs it has not.

    Where it says nothing, `silence` is why, and `kept` are the paths of the chart's values that
    nobody may decide anew.
    """

    missing: frozenset[str] = frozenset()
    silence: str = ""
    kept: tuple[str, ...] = ()


async def ask(cluster: Cluster, settings: Cilium) -> Answer:
    """Ask the cluster for the needs of the sections on `auto`; what is not there is a warning.

    When the program runs, in preview too, so that a preview tells what up will do; beside the
    program, since kubectl takes as long to start as many workers to declare.
    """
    asked = [need for need in needs(settings) if need.mode == "auto"]
    sections = ", ".join(need.section for need in asked)
    try:
        lacking = await asyncio.to_thread(_lacking, cluster.kubeconfig, asked)
    except kubectl.KubectlError as error:
        silence = f"the cluster can't be asked ({shortened(str(error))})"
        pulumi.log.warn(f"autojoin:cilium: {sections} stay as they are: {silence}")
        kept = tuple(value for need in asked for value in need.values)
        return Answer(frozenset(need.section for need in asked), silence, kept)
    for reason in dict.fromkeys(lacking.values()):
        off = ", ".join(section for section in lacking if lacking[section] == reason)
        pulumi.log.warn(f"autojoin:cilium: {off} off: {reason}")
    return Answer(frozenset(lacking))


def _lacking(kubeconfig: str, asked: list[Need]) -> dict[str, str]:
    """What of each need is not there, in words by section. KubectlError where nobody says."""
    wanted = [f"crd/{name.partition('/')[0]}" for need in asked for name in need.definitions]
    wanted += [f"namespace/{need.namespace}" for need in asked if need.namespace]
    if not wanted:
        return {}
    found = kubectl.items(kubeconfig, *wanted, "--ignore-not-found")
    namespaces = {each["metadata"]["name"] for each in found if each["kind"] == "Namespace"}
    served = served_versions([each for each in found if each["kind"] != "Namespace"])
    reasons = {need.section: _reason(need, served, namespaces) for need in asked}
    return {section: reason for section, reason in reasons.items() if reason}


def _reason(need: Need, served: set[str], namespaces: set[str]) -> str:
    """Why a need is not met, in words; empty where it is."""
    if need.namespace:
        there = need.namespace in namespaces
        return "" if there else f"no namespace {need.namespace}; mode: install makes it"
    lacking = [definition for definition in need.definitions if definition not in served]
    if not lacking:
        return ""
    more = f" and {len(lacking) - 1} more" if lacking[1:] else ""
    return f"no CRD {lacking[0]}{more}; mode: install adds what is missing"


def served_versions(definitions: list[dict[str, Any]]) -> set[str]:
    """NAME/VERSION of every served version of the Established ones among some CRDs."""
    found = set()
    for definition in definitions:
        conditions = definition.get("status", {}).get("conditions", [])
        if any(each["type"] == "Established" and each["status"] == "True" for each in conditions):
            name = definition["metadata"]["name"]
            found |= {
                f"{name}/{each['name']}"
                for each in definition["spec"]["versions"]
                if each["served"]
            }
    return found


def resources(
    name: str, settings: Cilium, kubeconfig: str, parent: pulumi.Resource
) -> list[pulumi.Resource]:
    """What must be done before the release: installed where asked, checked where required.

    What is installed stays when the stack is destroyed: others may use it by then.
    """
    found: list[pulumi.Resource] = []
    for need in needs(settings):
        if need.definitions and need.mode in ("install", "present"):
            install = need.mode == "install"
            source = ["-a", _local(need.source)] if install else []
            seconds = INSTALL_SECONDS if install else PRESENT_SECONDS
            found.append(
                crd_gate(
                    f"{name}-{need.resource}",
                    kubeconfig,
                    seconds,
                    need.definitions,
                    source,
                    parent,
                )
            )
        elif need.namespace and need.mode == "install":
            found.append(
                kubernetes.core.v1.Namespace(
                    f"{name}-{need.resource}",
                    metadata={"name": need.namespace},
                    opts=pulumi.ResourceOptions(parent=parent, retain_on_delete=True),
                )
            )
    return found


def crd_gate(
    name: str,
    kubeconfig: str,
    seconds: int,
    definitions: tuple[str, ...],
    options: list[str],
    parent: pulumi.Resource,
    depends_on: list[pulumi.Resource] | None = None,
    triggers: list[str] | None = None,
) -> pulumi.Resource:
    """A gate that opens once `definitions` (NAME/VERSION) are Established."""
    words = ["sh", "-c", CRD_GATE.read_text(), "crd-gate", *options, str(seconds), *definitions]
    gate: pulumi.Resource = remote.run_here(
        name,
        create=words,
        environment={"KUBECONFIG": kubeconfig},
        triggers=[*(triggers or []), *options, *definitions],
        parent=parent,
        depends_on=depends_on,
    )
    return gate


def _local(source: str) -> str:
    return source if "://" in source else str(Path(source).expanduser())

"""Cross-checks of `autojoin:cilium`: the release, the chart, and every value given to it."""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components import from_lab
from components.cilium import chart_keys
from components.cilium import values as cilium
from components.cilium import versions as cilium_versions
from components.cilium.versions import CiliumVersion
from stack.models import Lab
from stack.problem import Problem
from stack.types import Network

CILIUM = "autojoin:cilium"
# What a node gets of a pod network unless the values say otherwise, as the chart has it.
POD_PREFIXES = {4: ("clusterPoolIPv4MaskSize", 24), 6: ("clusterPoolIPv6MaskSize", 120)}
# By so much may an IPv6 network and a node's share of it differ (pkg/ipam/cidrset).
MOST_IPV6_BITS = 16
# Hubble's `http` and `httpV2` register the same metrics.
_CLASHING_METRICS = ("http", "httpV2")
# Values that the lab says: the key that says them.
_FACTS = {
    "cluster.name": "autojoin:cluster.name",
    "k8sServiceHost": "autojoin:cluster.apiServer",
    "k8sServicePort": "autojoin:cluster.apiServer",
    "ipam.operator.clusterPoolIPv4PodCIDRList": "autojoin:cluster.podCidrs",
    "ipam.operator.clusterPoolIPv6PodCIDRList": "autojoin:cluster.podCidrs",
}


def problems(lab: Lab) -> Iterator[Problem]:
    """Everything that is wrong with the section."""
    try:
        version = cilium_versions.of(lab.cilium.version)
    except cilium_versions.UnsupportedVersion as error:
        hint = f"supported are {cilium_versions.SUPPORTED}"
        yield Problem(f"{CILIUM}.version", "is of no supported release", error.version, hint)
        return
    yield from _chart(lab)
    yield from _sources(lab)
    yield from _values(lab, version)
    yield from _metrics(lab, version)
    yield from _switches(lab)
    yield from _pod_networks(lab)
    yield from _underlay(lab, version)


def warnings(lab: Lab) -> Iterator[Problem]:
    """What works, but perhaps not as it is meant."""
    try:
        cilium_versions.of(lab.cilium.version)
    except cilium_versions.UnsupportedVersion:
        return
    defaults = cilium.defaults(from_lab.cilium(lab))
    for dotted, key in _FACTS.items():
        own, ours = at(lab.cilium.values, dotted), at(defaults, dotted)
        if own is not None and own != ours:
            yield Problem(f"{CILIUM}.values.{dotted}", f"has the last word over {key}", repr(own))
    for dotted in cilium.nulls(lab.cilium.values):
        hint = "Pulumi's kubernetes plugin drops nulls; write the value that you want"
        yield Problem(f"{CILIUM}.values.{dotted}", "leaves the chart's default", "null", hint)


def _chart(lab: Lab) -> Iterator[Problem]:
    """A chart by path that is there must be of the version that is told."""
    folder = chart_folder(lab)
    if folder is None:
        return
    try:
        found = chart_keys.chart_version(folder)
    except (OSError, ValueError) as error:
        yield Problem(f"{CILIUM}.chart", "is no chart", f"{folder}: {error}")
        return
    if found != lab.cilium.version:
        hint = f"write version: {found}, or take another chart"
        yield Problem(f"{CILIUM}.version", f"is not that of {folder}", lab.cilium.version, hint)


def chart_folder(lab: Lab) -> Path | None:
    """The chart's folder where it is given by path and is there; else it can't be looked into."""
    if lab.cilium.chart_folder is None:
        return None
    folder = Path(lab.cilium.chart_folder).expanduser()
    return folder if folder.is_dir() else None


def _sources(lab: Lab) -> Iterator[Problem]:
    for name in ("gateway_api", "service_monitors"):
        section = getattr(lab.cilium, name)
        key = f"{CILIUM}.{'gatewayApi' if name == 'gateway_api' else 'serviceMonitors'}"
        if section.source and section.mode != "install":
            hint = "write mode: install, or remove it"
            yield Problem(f"{key}.source", f"is not used with mode: {section.mode}", hint=hint)


# --- values ---------------------------------------------------------------------------------


def _values(lab: Lab, version: CiliumVersion) -> Iterator[Problem]:
    if not lab.cilium.values:
        return  # the chart is read for nothing, which takes as long as the rest of the check
    place = f"{CILIUM}.values"
    for problem in chart_keys.problems(lab.cilium.values, keys(lab), place):
        yield _with_release(problem, version, place)


def keys(lab: Lab) -> chart_keys.Keys:
    """The keys of the chart: its own where it can be read, else those of its release."""
    folder = chart_folder(lab)
    if folder is not None:
        try:
            return chart_keys.of_chart(folder)
        except (OSError, ValueError):
            pass  # a problem of autojoin:cilium.chart
    return chart_keys.of_release(cilium_versions.of(lab.cilium.version).minor)


def _with_release(problem: Problem, version: CiliumVersion, place: str) -> Problem:
    """A value that another release has is named as such."""
    if problem.wrong != chart_keys.UNKNOWN:
        return problem
    dotted = problem.key.removeprefix(f"{place}.")
    replaced = [
        (old, new)
        for old, new in version.replaced_values.items()
        if old == dotted or old.startswith(f"{dotted}.")
    ]
    if replaced:
        hint = ", ".join(f"{old} became {new}" for old, new in replaced)
        return Problem(problem.key, f"went before Cilium {version.minor}", problem.found, hint)
    having = [minor for minor in cilium_versions.VERSIONS if chart_keys.has(minor, dotted)]
    if having:
        hint = f"Cilium {', '.join(having)} {'has' if len(having) == 1 else 'have'} it"
        return Problem(problem.key, f"is no value of Cilium {version.minor}", problem.found, hint)
    return problem


def _metrics(lab: Lab, version: CiliumVersion) -> Iterator[Problem]:
    """Hubble skips a metric that it does not know, with a line in the agent's log only."""
    place = f"{CILIUM}.values.hubble.metrics.enabled"
    enabled = at(lab.cilium.values, "hubble.metrics.enabled")
    if not isinstance(enabled, list):
        return
    names = [str(metric).partition(":")[0] for metric in enabled]
    for number, name in enumerate(names):
        if name not in version.hubble_metrics:
            having = [each.minor for each in cilium_versions.VERSIONS.values()]
            having = [
                each for each in having if name in cilium_versions.VERSIONS[each].hubble_metrics
            ]
            near = difflib.get_close_matches(name, sorted(version.hubble_metrics), n=1)
            hint = f"Cilium {', '.join(having)} had it" if having else ""
            hint = hint or (f"did you mean {near[0]}?" if near else "")
            wrong = f"is no metric of Hubble in Cilium {version.minor}"
            yield Problem(f"{place}[{number}]", wrong, name, hint)
    if set(_CLASHING_METRICS) <= set(names):
        yield Problem(place, "has both http and httpV2", hint="they clash; keep httpV2")


def _switches(lab: Lab) -> Iterator[Problem]:
    """Combinations that the chart refuses, or that leave the rest of the lab without effect."""
    values = cilium.helm_values(from_lab.cilium(lab))
    place = f"{CILIUM}.values"
    if lab.bgp is not None and at(values, "bgpControlPlane.enabled") is not True:
        hint = "remove it, or the section autojoin:bgp"
        yield Problem(f"{place}.bgpControlPlane.enabled", "is off, with autojoin:bgp", hint=hint)
    if at(values, "hubble.relay.enabled") and not at(values, "hubble.enabled"):
        yield Problem(f"{place}.hubble.relay.enabled", "needs hubble.enabled", hint="turn both off")
    alone = at(values, "hubble.ui.standalone.enabled")
    if at(values, "hubble.ui.enabled") and not at(values, "hubble.relay.enabled") and not alone:
        hint = "turn both off"
        yield Problem(f"{place}.hubble.ui.enabled", "needs hubble.relay.enabled", hint=hint)
    for controller in ("ingressController", "gatewayAPI"):
        if at(values, f"{controller}.enabled") and at(values, "l7Proxy") is False:
            hint = f"turn {controller} off too"
            yield Problem(f"{place}.l7Proxy", f"is off, and {controller} needs it", hint=hint)


def _pod_networks(lab: Lab) -> Iterator[Problem]:
    """Each node takes a share of the pod networks; they must hold one for every worker."""
    for version, (name, default) in POD_PREFIXES.items():
        given = at(lab.cilium.values, f"ipam.operator.{name}")
        share = given if isinstance(given, int) else default
        networks = [ipaddress.ip_network(cidr) for cidr in lab.cluster.pod_cidrs]
        networks = [network for network in networks if network.version == version]
        if not networks:
            continue
        for index, cidr in enumerate(lab.cluster.pod_cidrs):
            network = ipaddress.ip_network(cidr)
            if network in networks and network.prefixlen > share:
                hint = f"a node takes a /{share} of it (ipam.operator.{name})"
                key = f"autojoin:cluster.podCidrs[{index}]"
                yield Problem(key, "is smaller than the share of one node", cidr, hint)
            if network in networks and version == 6:
                yield from _too_large(f"autojoin:cluster.podCidrs[{index}]", network, name, share)
        room = sum(2 ** max(0, share - network.prefixlen) for network in networks)
        if room < len(lab.workers):
            held = " and ".join(str(network) for network in networks)
            found = f"{held} hold {room} shares of /{share} for {len(lab.workers)} workers"
            yield Problem("autojoin:cluster.podCidrs", "are too small for the workers", found)


def _too_large(key: str, network: Network, name: str, share: int) -> Iterator[Problem]:
    """Cilium's operator ends at once (pkg/ipam/cidrset), with IPv6 only."""
    bits = share - network.prefixlen
    if bits > MOST_IPV6_BITS:
        wrong = f"is too large: /{network.prefixlen} and a node's share of it, /{share}, differ by"
        wrong += f" {bits} bits; Cilium takes at most {MOST_IPV6_BITS}"
        near = network.prefixlen + MOST_IPV6_BITS
        hint = f"use a /{share - MOST_IPV6_BITS}, or set ipam.operator.{name}: {near}"
        hint += " in autojoin:cilium.values"
        yield Problem(key, wrong, str(network), hint)


def _underlay(lab: Lab, version: CiliumVersion) -> Iterator[Problem]:
    """Nodes without IPv4 tunnel to each other over IPv6, or route."""
    values = cilium.helm_values(from_lab.cilium(lab))
    if at(values, "ipv4.enabled") or at(values, "routingMode") == "native" or version.ipv6_underlay:
        return
    nodes = [it for worker in lab.workers.values() for it in worker.addresses]
    if not all(":" in it for it in nodes or lab.cluster.node_cidrs):
        return
    hint = "use 1.18 or newer, or routingMode: native in autojoin:cilium.values"
    wrong = "can't tunnel between nodes without IPv4: its agent ends at start"
    yield Problem(f"{CILIUM}.version", wrong, lab.cilium.version, hint)


def at(values: Any, dotted: str) -> Any:
    """The value at a dotted path, None where there is none."""
    for name in dotted.split("."):
        if not isinstance(values, dict):
            return None
        values = values.get(name)
    return values

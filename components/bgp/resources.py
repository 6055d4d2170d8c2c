"""Custom resources of Cilium's BGP control plane v2 and its load balancer pools.

Each is a dict with apiVersion, kind, metadata and spec. The operator registers their CRDs.
"""

from __future__ import annotations

import copy
from itertools import groupby
from typing import Any

from components.cilium import versions as cilium_versions
from stack.bgp import (
    DEFAULT_ADVERTISEMENT,
    Advertisement,
    Bgp,
    Instance,
    LoadBalancerPool,
    Override,
    Peer,
)
from stack.labels import Selector
from stack.models import Lab

PEER_CONFIG = "cilium-peer"
SHARED_PEER_CONFIGS = (PEER_CONFIG, f"{PEER_CONFIG}-ipv6")
ADVERTISEMENTS = "bgp-advertisements"
CLUSTER_CONFIG = "cilium-bgp"
ADVERTISE_LABEL = "advertise"
PASSWORD_KEY = "password"
# Where the chart lets the agents read them (bgpControlPlane.secretsNamespace).
BGP_SECRETS_NAMESPACE = "kube-system"
REDACTED = "REDACTED"
# An absent selector selects nothing; one that never fails to match selects every Service.
_EVERY_SERVICE = {
    "matchExpressions": [{"key": "somekey", "operator": "NotIn", "values": ["never-used-value"]}]
}
PLURALS = {
    "CiliumBGPClusterConfig": "ciliumbgpclusterconfigs",
    "CiliumBGPPeerConfig": "ciliumbgppeerconfigs",
    "CiliumBGPAdvertisement": "ciliumbgpadvertisements",
    "CiliumBGPNodeConfigOverride": "ciliumbgpnodeconfigoverrides",
    "CiliumLoadBalancerIPPool": "ciliumloadbalancerippools",
}
# What tells one peer from another; everything else is its CiliumBGPPeerConfig.
_PEER = {"name", "address", "asn"}
Resource = dict[str, Any]


def stages(chart_version: str, bgp: Bgp) -> list[list[Resource]]:
    """Every resource, in the groups in which they are wanted: what is named before who names it."""
    version = cilium_versions.of(chart_version).api_version
    named = [
        *_peer_configs(version, bgp),
        *_advertisements(version, bgp),
        *_overrides(version, bgp),
    ]
    pools = [_pool(version, pool) for pool in bgp.load_balancer_pools]
    return [group for group in (named, pools, _cluster_configs(version, bgp)) if group]


def custom_resources(chart_version: str, bgp: Bgp) -> list[Resource]:
    """The resources of all stages."""
    return [resource for stage in stages(chart_version, bgp) for resource in stage]


def passwords(bgp: Bgp) -> dict[str, str]:
    """The password of each session that has one, by the name of the Secret that holds it."""
    return {
        secret_name(bgp, instance, peer): peer.password.get_secret_value()
        for instance in bgp.all_instances
        for peer in instance.peers
        if peer.password
    }


def secrets(bgp: Bgp, *, show: bool = False) -> list[Resource]:
    """The Secrets that the agents read passwords from, `REDACTED` unless shown."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": BGP_SECRETS_NAMESPACE},
            "stringData": {PASSWORD_KEY: password if show else REDACTED},
        }
        for name, password in passwords(bgp).items()
    ]


def sessions(lab: Lab) -> list[str]:
    """Every session that the workers are to have, as NODE/PEER."""
    return [
        f"{name}/{peer.name}"
        for instance in (lab.bgp.all_instances if lab.bgp else [])
        for name, worker in lab.workers.items()
        if instance.node_selector.selects(worker.labels)
        for peer in instance.peers
    ]


def definitions(resources: list[Resource]) -> list[str]:
    """The CRDs that `resources` need, each once, with the version: `NAME.cilium.io/v2`."""
    return sorted({f"{PLURALS[each['kind']]}.{each['apiVersion']}" for each in resources})


def _resource(
    version: str, kind: str, name: str, spec: dict[str, Any], labels: dict[str, str] | None = None
) -> Resource:
    metadata: dict[str, Any] = {"name": name}
    if labels:
        metadata["labels"] = dict(labels)
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


# --- peers ----------------------------------------------------------------------------------


def has_defaults(peer: Peer) -> bool:
    """Whether nothing but name, address and autonomous system of the peer is told."""
    fields = {name: each.default for name, each in Peer.model_fields.items() if name not in _PEER}
    return all(getattr(peer, name) == default for name, default in fields.items())


def peer_config_name(bgp: Bgp, instance: Instance, peer: Peer) -> str:
    """The CiliumBGPPeerConfig of a peer: one is shared by all peers that leave it at defaults."""
    if has_defaults(peer):
        return SHARED_PEER_CONFIGS[peer.session_family == "ipv6"]
    further = any(instance is each for each in bgp.instances)
    return f"{PEER_CONFIG}-{instance.name}-{peer.name}" if further else f"{PEER_CONFIG}-{peer.name}"


def secret_name(bgp: Bgp, instance: Instance, peer: Peer) -> str:
    """The Secret with the password of a peer's session."""
    return f"{peer_config_name(bgp, instance, peer)}-{PASSWORD_KEY}"


def _peer_configs(version: str, bgp: Bgp) -> list[Resource]:
    specs = {
        peer_config_name(bgp, instance, peer): _peer_config(bgp, instance, peer)
        for instance in bgp.all_instances
        for peer in instance.peers
    }
    return [_resource(version, "CiliumBGPPeerConfig", name, spec) for name, spec in specs.items()]


def _peer_config(bgp: Bgp, instance: Instance, peer: Peer) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "transport": {"peerPort": peer.port},
        "timers": _timers(peer),
    }
    if peer.password:
        spec["authSecretRef"] = secret_name(bgp, instance, peer)
    if peer.graceful_restart:
        spec["gracefulRestart"] = {"enabled": True, "restartTimeSeconds": peer.graceful_restart}
    if peer.ebgp_multihop:
        spec["ebgpMultihop"] = peer.ebgp_multihop
    spec["families"] = [
        {"afi": family, "safi": "unicast", "advertisements": _advertised_to(bgp, peer)}
        for family in peer.route_families
    ]
    return spec


def _timers(peer: Peer) -> dict[str, int]:
    found = {"connectRetryTimeSeconds": peer.connect_retry_time}
    if peer.hold_time or peer.keep_alive_time:
        # One without the other is refused where the other's default does not fit to it.
        found["holdTimeSeconds"], found["keepAliveTimeSeconds"] = peer.timers
    return found


def _advertised_to(bgp: Bgp, peer: Peer) -> dict[str, Any]:
    names = list(peer.advertise) or [each.name for each in bgp.all_advertisements]
    if len(names) == 1:
        return {"matchLabels": {ADVERTISE_LABEL: names[0]}}
    return {"matchExpressions": [{"key": ADVERTISE_LABEL, "operator": "In", "values": names}]}


def _cluster_configs(version: str, bgp: Bgp) -> list[Resource]:
    """One for each set of nodes: two that select the same node are in conflict."""
    instances = bgp.all_instances
    selectors: list[Selector] = []
    for instance in instances:
        if instance.node_selector not in selectors:
            selectors.append(instance.node_selector)
    found = []
    for number, selector in enumerate(selectors):
        those = [each for each in instances if each.node_selector == selector]
        spec: dict[str, Any] = {"bgpInstances": [_instance(bgp, each) for each in those]}
        if selector.manifest():
            spec = {"nodeSelector": selector.manifest(), **spec}
        name = f"{CLUSTER_CONFIG}-{those[0].name}" if number else CLUSTER_CONFIG
        found.append(_resource(version, "CiliumBGPClusterConfig", name, spec))
    return found


def _instance(bgp: Bgp, instance: Instance) -> dict[str, Any]:
    found: dict[str, Any] = {"name": instance.name, "localASN": instance.local_asn}
    if instance.port:
        found["localPort"] = instance.port
    found["peers"] = [
        {
            "name": peer.name,
            "peerASN": peer.asn,
            "peerAddress": peer.address,
            "peerConfigRef": {"name": peer_config_name(bgp, instance, peer)},
        }
        for peer in instance.peers
    ]
    return found


def _overrides(version: str, bgp: Bgp) -> list[Resource]:
    """One for each node, named after it."""
    only = bgp.all_instances[0].name if len(bgp.all_instances) == 1 else ""
    by_node = groupby(sorted(bgp.overrides, key=lambda each: each.node), lambda each: each.node)
    return [
        _resource(
            version,
            "CiliumBGPNodeConfigOverride",
            node,
            {"bgpInstances": [_override(each, each.instance or only) for each in those]},
        )
        for node, those in by_node
    ]


def _override(override: Override, instance: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": instance,
        "routerID": override.router_id,
        "localASN": override.local_asn,
        "localPort": override.port,
        "peers": [
            _without_none(
                {
                    "name": peer.name,
                    "localAddress": peer.local_address,
                    "localPort": peer.local_port,
                }
            )
            for peer in override.peers
        ]
        or None,
    }
    return _without_none(found)


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


# --- advertisements -------------------------------------------------------------------------


def advertisement_name(advertisement: Advertisement) -> str:
    """The name of the resource; peers select it by the label, which is the configured name."""
    standard = advertisement.name == DEFAULT_ADVERTISEMENT
    return ADVERTISEMENTS if standard else advertisement.name


def _advertisements(version: str, bgp: Bgp) -> list[Resource]:
    found = []
    for each in bgp.all_advertisements:
        spec = _advertised(bgp, each)
        if spec:
            labels = {ADVERTISE_LABEL: each.name}
            name = advertisement_name(each)
            body = {"advertisements": spec}
            found.append(_resource(version, "CiliumBGPAdvertisement", name, body, labels))
    return found


def _advertised(bgp: Bgp, advertisement: Advertisement) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if advertisement.pod_cidrs:
        found.append({"advertisementType": "PodCIDR"})
    if advertisement.services:
        service: dict[str, Any] = {"addresses": list(advertisement.services)}
        if advertisement.aggregation_length_ipv4 is not None:
            service["aggregationLengthIPv4"] = advertisement.aggregation_length_ipv4
        if advertisement.aggregation_length_ipv6 is not None:
            service["aggregationLengthIPv6"] = advertisement.aggregation_length_ipv6
        selector = advertisement.selector.manifest() or copy.deepcopy(_EVERY_SERVICE)
        found.append({"advertisementType": "Service", "service": service, "selector": selector})
    if _attributes(bgp, advertisement):
        found = [{**each, "attributes": _attributes(bgp, advertisement)} for each in found]
    return found


def _attributes(bgp: Bgp, advertisement: Advertisement) -> dict[str, Any]:
    communities = {
        "standard": list(dict.fromkeys([*bgp.communities, *advertisement.communities])),
        "large": list(advertisement.large_communities),
        "wellKnown": list(advertisement.well_known_communities),
    }
    found: dict[str, Any] = {}
    if any(communities.values()):
        found["communities"] = {name: values for name, values in communities.items() if values}
    if advertisement.local_preference is not None:
        found["localPreference"] = advertisement.local_preference
    return found


# --- pools ----------------------------------------------------------------------------------


def _pool(version: str, pool: LoadBalancerPool) -> Resource:
    blocks = [{"cidr": cidr} for cidr in pool.cidrs]
    blocks += [{"start": each.start, "stop": each.stop} for each in pool.ranges]
    spec: dict[str, Any] = {"blocks": blocks, "disabled": pool.disabled}
    if pool.service_selector.manifest():
        spec["serviceSelector"] = pool.service_selector.manifest()
    if not pool.allow_first_last_ips:
        spec["allowFirstLastIPs"] = "No"
    return _resource(version, "CiliumLoadBalancerIPPool", pool.name, spec)

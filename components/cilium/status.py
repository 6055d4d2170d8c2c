"""What the cluster says of Cilium's BGP and pools, in plain words.

From objects, as `kubectl get -o json` gives them, to findings: what is wrong and what to do, then
what is well. The conditions are those of Cilium's operator (operator/pkg/{bgpv2,lbipam}).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Objects = Mapping[str, list[dict[str, Any]]]

# What to read, by the name under which `findings` wants it: the words of `kubectl get`.
READ = {
    "clusterConfigs": ("ciliumbgpclusterconfigs",),
    "peerConfigs": ("ciliumbgppeerconfigs",),
    "advertisements": ("ciliumbgpadvertisements",),
    "nodeConfigs": ("ciliumbgpnodeconfigs",),
    "pools": ("ciliumloadbalancerippools",),
    "ciliumNodes": ("ciliumnodes",),
    "services": ("services", "--all-namespaces"),
    "agents": ("daemonsets", "--namespace=kube-system", "--selector=k8s-app=cilium"),
    "dns": ("deployments", "--namespace=kube-system", "--selector=k8s-app=kube-dns"),
}
INGRESS = ("kube-system", "cilium-ingress")
_ESTABLISHED = "established"
# A LoadBalancer Service of another class is not Cilium's.
_CLASSES = (None, "io.cilium/bgp-control-plane", "io.cilium/l2-announcer")


@dataclass(frozen=True)
class Finding:
    """One sentence about one object; `problem` where a person has to do something."""

    subject: str
    text: str
    problem: bool = False

    def __str__(self) -> str:
        return f"{self.subject}: {self.text}"


def findings(objects: Objects) -> list[Finding]:
    """Everything there is to say, problems first."""
    found = [
        *_agents(objects),
        *_dns(objects),
        *_cluster_configs(objects),
        *_peer_configs(objects),
        *_advertised(objects),
        *_nodes(objects),
        *_pools(objects),
        *_services(objects),
    ]
    return sorted(found, key=lambda finding: not finding.problem)


def _name(item: dict[str, Any]) -> str:
    return str(item["metadata"]["name"])


def _condition(item: dict[str, Any], kind: str) -> dict[str, Any]:
    """A condition of Cilium's by the end of its type; an empty one where it is not there."""
    conditions = item.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == f"cilium.io/{kind}"), {})


def _holds(item: dict[str, Any], kind: str) -> bool:
    return bool(_condition(item, kind).get("status") == "True")


def _stale(item: dict[str, Any]) -> bool:
    """Whether conditions are of an earlier generation of the object than it has now."""
    now = item["metadata"].get("generation", 0)
    return any(
        each.get("observedGeneration", now) < now
        for each in item.get("status", {}).get("conditions", [])
    )


def _listed(text: str) -> str:
    """The names in a message that ends in `[one two]`, with commas."""
    return ", ".join(text.rpartition("[")[2].rstrip("]").split())


def _matches(labels: Mapping[str, str], selector: Mapping[str, Any] | None) -> bool:
    """Whether a label selector, as an object holds it, selects; an absent one selects nothing."""
    if selector is None:
        return False
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    return all(_met(labels, each) for each in selector.get("matchExpressions", []))


def _met(labels: Mapping[str, str], requirement: Mapping[str, Any]) -> bool:
    key, operator = requirement["key"], requirement["operator"]
    if operator in ("Exists", "DoesNotExist"):
        return bool((key in labels) == (operator == "Exists"))
    return bool((labels.get(key) in requirement.get("values", [])) == (operator == "In"))


def _selector_text(selector: Mapping[str, Any] | None) -> str:
    """`bgp=worker, zone notin (attic)`, as kubectl writes selectors."""
    selector = selector or {}
    words = [f"{key}={value}" for key, value in selector.get("matchLabels", {}).items()]
    for each in selector.get("matchExpressions", []):
        values = f" ({', '.join(each['values'])})" if each.get("values") else ""
        words.append(f"{each['key']} {each['operator'].lower()}{values}")
    return ", ".join(words) or "every node"


# --- BGP ------------------------------------------------------------------------------------


def _cluster_configs(objects: Objects) -> Iterator[Finding]:
    for item in objects["clusterConfigs"]:
        subject = f"CiliumBGPClusterConfig {_name(item)}"
        selector = _selector_text(item["spec"].get("nodeSelector"))
        if not item.get("status", {}).get("conditions"):
            text = "Cilium's operator has not looked at it; does it run, with BGP enabled?"
            yield Finding(subject, text, True)
        elif _stale(item):
            text = (
                "Cilium's operator has not looked at it since it changed; a moment, or does it run?"
            )
            yield Finding(subject, text, True)
            continue  # what the conditions say is of what it was before
        if _holds(item, "NoMatchingNode"):
            text = (
                f"no node matches its selector {selector}, so nobody speaks BGP; label a node, or "
                "correct nodeSelector in autojoin:bgp"
            )
            yield Finding(subject, text, True)
        if _holds(item, "MissingPeerConfigs"):
            names = _listed(_condition(item, "MissingPeerConfigs")["message"])
            text = f"names the peer config {names}, which is not there: its peers get no routes"
            yield Finding(subject, text, True)
        if _holds(item, "ConflictingClusterConfig"):
            names = _listed(_condition(item, "ConflictingClusterConfig")["message"])
            text = f"selects nodes that {names} selects too; only one of them is in effect there"
            yield Finding(subject, text, True)


def _peer_configs(objects: Objects) -> Iterator[Finding]:
    for item in objects["peerConfigs"]:
        if _holds(item, "MissingAuthSecret"):
            secret = item["spec"].get("authSecretRef", "")
            text = f"its password is in Secret {secret}, which is not there"
            yield Finding(f"CiliumBGPPeerConfig {_name(item)}", text, True)


def _advertised(objects: Objects) -> Iterator[Finding]:
    """References by label, of which Cilium says nothing where they lead nowhere."""
    labels = {_name(item): item["metadata"].get("labels", {}) for item in objects["advertisements"]}
    selectors = []
    for item in objects["peerConfigs"]:
        for family in item["spec"].get("families", []):
            selector = family.get("advertisements")
            selectors.append(selector)
            if not any(_matches(each, selector) for each in labels.values()):
                text = f"its {family['afi']} routes select no advertisement, so none are sent"
                yield Finding(f"CiliumBGPPeerConfig {_name(item)}", text, True)
    for name, each in labels.items():
        if not any(_matches(each, selector) for selector in selectors):
            text = "no peer config selects it, so it is sent to nobody"
            yield Finding(f"CiliumBGPAdvertisement {name}", text, True)


def _nodes(objects: Objects) -> Iterator[Finding]:
    """Whether each selected node has its configuration, and what its sessions are."""
    configured = {_name(item): item for item in objects["nodeConfigs"]}
    for item in objects["clusterConfigs"]:
        selector = item["spec"].get("nodeSelector", {})
        subject = f"CiliumBGPClusterConfig {_name(item)}"
        names = [
            _name(node)
            for node in objects["ciliumNodes"]
            if _matches(node["metadata"].get("labels", {}), selector)
        ]
        waiting = [name for name in names if name not in configured]
        if waiting:
            text = f"{', '.join(waiting)} {'has' if len(waiting) == 1 else 'have'} no BGP yet"
            yield Finding(subject, text, True)
        given = [name for name in names if _owned(configured.get(name), _name(item))]
        silent = [name for name in given if not _instances(configured[name])]
        if silent:
            text = f"the agent of {', '.join(silent)} has told of no session; does it run?"
            yield Finding(subject, text, True)
        speaking = [name for name in given if name not in silent]
        if speaking:
            yield Finding(subject, f"in effect on {', '.join(speaking)}")
    for name, item in configured.items():
        yield from _sessions(name, item)


def _owned(node_config: dict[str, Any] | None, cluster_config: str) -> bool:
    """Whether the operator made a node's configuration from this cluster configuration."""
    owners = node_config["metadata"].get("ownerReferences", []) if node_config else []
    return any(owner["name"] == cluster_config for owner in owners)


def _instances(node_config: dict[str, Any]) -> list[dict[str, Any]]:
    """What an agent tells of its virtual routers; nothing where no agent speaks BGP."""
    return list(node_config.get("status", {}).get("bgpInstances", []))


def sessions(node_configs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every session, for a program: node, peer, address, state, since when, routes sent."""
    return [
        {
            "node": _name(item),
            "peer": peer["name"],
            "address": peer.get("peerAddress", "?"),
            "state": peer.get("peeringState", "unknown"),
            "since": peer.get("establishedTime"),
            "routesSent": sum(each.get("advertised", 0) for each in peer.get("routeCount", [])),
        }
        for item in node_configs
        for instance in _instances(item)
        for peer in instance.get("peers", [])
    ]


def _sessions(node: str, item: dict[str, Any]) -> Iterator[Finding]:
    for it in sessions([item]):
        subject = f"node {node}, peer {it['peer']} ({it['address']})"
        if it["state"] == _ESTABLISHED:
            since = f" since {it['since']}" if it["since"] else ""
            routes = "1 route" if it["routesSent"] == 1 else f"{it['routesSent']} routes"
            yield Finding(subject, f"session established{since}, {routes} sent")
        else:
            text = (
                f"session is {it['state']}; does the router know this node, its system and the "
                "password? `make render` writes its side"
            )
            yield Finding(subject, text, True)


# --- addresses ------------------------------------------------------------------------------


def _count(pool: dict[str, Any], kind: str) -> int | None:
    text = str(_condition(pool, kind).get("message", ""))
    return int(text) if text.isdigit() else None


def _pools(objects: Objects) -> Iterator[Finding]:
    for item in objects["pools"]:
        subject = f"pool {_name(item)}"
        total, free = _count(item, "IPsTotal"), _count(item, "IPsAvailable")
        if _holds(item, "PoolConflict"):
            reason = _condition(item, "PoolConflict").get("message", "")
            text = f"gives out no addresses, it overlaps another pool: {reason}"
            yield Finding(subject, text, True)
        elif item["spec"].get("disabled"):
            yield Finding(subject, "is disabled, it gives out no more addresses")
        elif total is None or free is None:
            text = "Cilium's operator has not looked at it; does it run?"
            yield Finding(subject, text, True)
        elif free == 0:
            text = f"all {total} addresses are in use; add a network to it"
            yield Finding(subject, text, True)
        else:
            yield Finding(subject, f"{free} of {total} addresses are free")


def _services(objects: Objects) -> Iterator[Finding]:
    seen = False
    for item in objects["services"]:
        spec = item["spec"]
        if spec.get("type") != "LoadBalancer" or spec.get("loadBalancerClass") not in _CLASSES:
            continue
        place = (item["metadata"]["namespace"], _name(item))
        seen = seen or place == INGRESS
        given = item.get("status", {}).get("loadBalancer", {}).get("ingress", [])
        addresses = [each.get("ip") or each.get("hostname", "") for each in given]
        subject = f"Service {'/'.join(place)}"
        if addresses:
            yield _given(subject, ", ".join(addresses), objects)
            continue
        condition = _condition(item, "IPAMRequestSatisfied")
        reason = str(condition.get("message", "")) or "no pool has one for it"
        yield Finding(subject, f"has no address: {reason[:1].lower()}{reason[1:]}", True)


def _given(subject: str, addresses: str, objects: Objects) -> Finding:
    """A Service with an address, to which somebody outside must know the way."""
    found = sessions(objects["nodeConfigs"])
    if found and not any(it["state"] == _ESTABLISHED for it in found):
        text = f"has {addresses}, to which nobody knows the way: no session is established"
        return Finding(subject, text, True)
    return Finding(subject, f"has {addresses}")


# --- what runs in pods ------------------------------------------------------------------------


def _agents(objects: Objects) -> Iterator[Finding]:
    for item in objects["agents"]:
        status = item.get("status", {})
        wanted, ready = status.get("desiredNumberScheduled", 0), status.get("numberReady", 0)
        text = f"{ready} of {wanted} are ready"
        if ready < wanted:
            text += "; kubectl -n kube-system describe pods -l k8s-app=cilium says why"
        yield Finding("Cilium's agents", text, ready < wanted)


def _dns(objects: Objects) -> Iterator[Finding]:
    for item in objects["dns"]:
        wanted = item["spec"].get("replicas", 1)
        ready = item.get("status", {}).get("readyReplicas", 0)
        text = f"{ready} of {wanted} pods are ready"
        if not ready:
            text += ", so no pod finds a Service by name"
        if ready < wanted:
            text += "; kubectl -n kube-system describe pods -l k8s-app=kube-dns says why"
        yield Finding("the cluster's DNS", text, ready < wanted)

"""Cross-checks of `autojoin:dns`: what would be refused, or leaves pods without names."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from stack.models import Lab
from stack.problem import Problem

DNS = "autojoin:dns"
STUB = "/etc/resolv.conf"


def problems(lab: Lab) -> Iterator[Problem]:
    """Everything that is wrong with the section."""
    dns = lab.dns
    if dns.mode == "off":
        return
    if dns.mode == "external" and dns.address is None:
        yield Problem(f"{DNS}.address", "is required with mode: external")
        return
    if dns.mode == "install":
        yield from _address(lab)
        yield from _upstream(lab)
        yield from _stub_resolvers(lab)


def _address(lab: Lab) -> Iterator[Problem]:
    """Where the Service can have it: no other network is the API server's to give."""
    address = ipaddress.ip_address(lab.dns_address or "")
    networks = [ipaddress.ip_network(cidr) for cidr in lab.cluster.service_cidrs]
    network = next((each for each in networks if address in each), None)
    listed = ", ".join(lab.cluster.service_cidrs)
    if network is None:
        hint = f"take one of {listed}; mode: external takes any"
        yield Problem(f"{DNS}.address", "is in none of the Service networks", str(address), hint)
    elif address in (network[0], network[1]):
        word = "the network's own" if address == network[0] else "that of Service kubernetes"
        hint = "the tenth is usual"
        yield Problem(f"{DNS}.address", f"is {word}", str(address), hint)


def _upstream(lab: Lab) -> Iterator[Problem]:
    """No resolver that asks CoreDNS again, or that no pod reaches."""
    inside = [
        (f"autojoin:cluster.{key}[{index}]", ipaddress.ip_network(cidr))
        for key, cidrs in (
            ("serviceCidrs", lab.cluster.service_cidrs),
            ("podCidrs", lab.cluster.pod_cidrs),
        )
        for index, cidr in enumerate(cidrs)
    ]
    lists = {f"{DNS}.upstream": lab.dns.upstream}
    lists |= {f"{DNS}.zones[{zone!r}]": servers for zone, servers in lab.dns.zones.items()}
    for key, servers in lists.items():
        for index, server in enumerate(servers):
            place, address = f"{key}[{index}]", ipaddress.ip_address(server)
            if server == lab.dns_address:
                yield Problem(place, "is the cluster's DNS itself, which would ask itself", server)
            elif address.is_loopback:
                hint = "in CoreDNS's pod that is CoreDNS; name a resolver of the network"
                yield Problem(place, "is a loopback address", server, hint)
            else:
                for network_key, network in inside:
                    if key == f"{DNS}.upstream" and address in network:
                        hint = "other names must come from outside the cluster"
                        yield Problem(place, f"lies in {network_key}", server, hint)


def _stub_resolvers(lab: Lab) -> Iterator[Problem]:
    """A node whose pods get systemd-resolved's stub: CoreDNS there sees its own questions again."""
    if lab.dns.upstream:
        return
    for name, worker in lab.workers.items():
        if worker.os_release.startswith("ubuntu-") and worker.kubelet.get("resolvConf") == STUB:
            hint = f"leave it out, or name resolvers in {DNS}.upstream"
            yield Problem(
                f"autojoin:workers.{name}.kubelet.resolvConf",
                "names the node's own stub resolver, at which CoreDNS would ask itself",
                STUB,
                hint,
            )

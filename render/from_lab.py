"""From a lab's settings to what the render functions take."""

from __future__ import annotations

from config.models import Bgp, CertificateAuthority, Lab, Worker
from render import join_gate
from render.authority_host import AuthorityHost
from render.bgp import BgpSettings, Peer, Pool
from render.cilium import CiliumSettings
from render.seed import Cluster, Node


def authority_host(settings: CertificateAuthority) -> AuthorityHost:
    """The CA host, as its installers need to know it."""
    return AuthorityHost(
        platform=settings.platform,
        address=settings.host.address,
        source=settings.source,
        certificate=settings.certificate or "",
        key=settings.key or "",
        subject=dict(settings.subject),
        node_certificate_hours=settings.node_certificate_hours,
    )


def gate_url(lab: Lab) -> str:
    """Where nodes reach the join gate."""
    return join_gate.url(authority_host(lab.certificate_authority))


def cluster(lab: Lab) -> Cluster:
    """What a node needs to know of its cluster."""
    settings = lab.cluster
    return Cluster(
        name=settings.name,
        api_server=settings.api_server,
        kubernetes_version=settings.kubernetes_version,
        pod_cidrs=tuple(settings.pod_cidrs),
        service_cidrs=tuple(settings.service_cidrs),
        node_cidrs=tuple(settings.node_cidrs),
        dns_servers=tuple(settings.dns_servers),
        gateway=settings.gateway,
    )


def node(name: str, settings: Worker, identity: str, interface: str) -> Node:
    """What a node needs to know of itself."""
    return Node(
        name=name,
        addresses=(settings.address,),
        generation=settings.generation,
        identity=identity,
        mac=settings.mac,
        labels=dict(settings.labels),
        interface=interface,
    )


def cilium(lab: Lab) -> CiliumSettings:
    """What of the lab decides the chart's values."""
    return CiliumSettings(
        cluster_name=lab.cluster.name,
        api_host=lab.cluster.api_host,
        api_port=lab.cluster.api_port,
        pod_cidrs=tuple(lab.cluster.pod_cidrs),
        bgp=lab.bgp is not None,
        values=lab.cilium.values,
    )


def bgp(lab: Lab, settings: Bgp) -> BgpSettings:
    """The `autojoin:bgp` section."""
    return BgpSettings(
        chart_version=lab.cilium.version,
        local_asn=settings.local_asn,
        peers=tuple(Peer(peer.name, peer.address, peer.asn) for peer in settings.peers),
        communities=tuple(settings.communities),
        pod_cidrs=settings.advertise.pod_cidrs,
        services=tuple(settings.advertise.services),
        pools=tuple(Pool(pool.name, tuple(pool.cidrs)) for pool in settings.load_balancer_pools),
    )

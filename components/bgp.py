"""BGP for the nodes, and the pools that load balancer Services take their addresses from."""

from __future__ import annotations

import pulumi
import pulumi_kubernetes as kubernetes

from components.cilium import Cilium
from config.models import Bgp as Settings
from config.models import Lab
from render import bgp as render


class Bgp(pulumi.ComponentResource):
    """The custom resources of BGP, made once their CRDs are Established."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        cilium: Cilium,
        provider: kubernetes.Provider,
        opts: pulumi.ResourceOptions | None = None,
    ):
        super().__init__("autojoin:index:Bgp", name, None, opts)
        resources = render.custom_resources(bgp_settings(cilium.lab, settings))
        gate = cilium.wait_for(render.definitions(resources), parent=self)
        for resource in resources:
            kubernetes.apiextensions.CustomResource(
                resource["metadata"]["name"],
                api_version=resource["apiVersion"],
                kind=resource["kind"],
                metadata=resource["metadata"],
                spec=resource["spec"],
                opts=pulumi.ResourceOptions(parent=self, provider=provider, depends_on=[gate]),
            )
        self.register_outputs({"localAsn": settings.local_asn})


def bgp_settings(lab: Lab, settings: Settings) -> render.BgpSettings:
    """The `autojoin:bgp` section as the render room takes it."""
    return render.BgpSettings(
        chart_version=lab.cilium.version,
        local_asn=settings.local_asn,
        peers=tuple(render.Peer(peer.name, peer.address, peer.asn) for peer in settings.peers),
        communities=tuple(settings.communities),
        pod_cidrs=settings.advertise.pod_cidrs,
        services=tuple(settings.advertise.services),
        pools=tuple(
            render.Pool(pool.name, tuple(pool.cidrs)) for pool in settings.load_balancer_pools
        ),
    )

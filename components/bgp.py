"""BGP for the nodes, and the pools that load balancer Services take their addresses from."""

from __future__ import annotations

import pulumi
import pulumi_kubernetes as kubernetes

from components.cilium import Cilium
from config.models import Bgp as Settings
from render import bgp as render
from render import from_lab


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
        resources = render.custom_resources(from_lab.bgp(cilium.lab, settings))
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

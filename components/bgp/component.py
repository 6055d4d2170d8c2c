"""BGP for the nodes, and the pools that load balancer Services take their addresses from."""

from __future__ import annotations

import pulumi
import pulumi_kubernetes as kubernetes

from components.bgp import resources as render
from components.cilium import versions as cilium_versions
from components.cilium.component import Cilium
from stack.bgp import Bgp as Settings


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
        stages = render.stages(cilium.lab.cilium.version, settings)
        needed = render.definitions([resource for stage in stages for resource in stage])
        gate = cilium.wait_for(needed, parent=self)
        before = [gate, *self._secrets(settings, provider)]
        for stage in stages:
            before = [self._resource(resource, provider, before) for resource in stage]
        self.register_outputs({"localAsn": settings.local_asn})

    def _resource(
        self, resource: render.Resource, provider: kubernetes.Provider, needs: list[pulumi.Resource]
    ) -> pulumi.Resource:
        kind, version = resource["kind"], resource["apiVersion"]
        # The version is in the URN. It is one object whatever the version, so it must be one URN:
        # else it were made under the new one, and then deleted under the old.
        before = [
            pulumi.Alias(type_=f"kubernetes:{each}:{kind}")
            for each in sorted(cilium_versions.API_VERSIONS - {version})
        ]
        made: pulumi.Resource = kubernetes.apiextensions.CustomResource(
            resource["metadata"]["name"],
            api_version=version,
            kind=kind,
            metadata=resource["metadata"],
            spec=resource["spec"],
            opts=pulumi.ResourceOptions(
                parent=self, provider=provider, depends_on=needs, aliases=before
            ),
        )
        return made

    def _secrets(self, settings: Settings, provider: kubernetes.Provider) -> list[pulumi.Resource]:
        """The passwords of sessions, where the agents may read them."""
        return [
            kubernetes.core.v1.Secret(
                secret["metadata"]["name"],
                metadata=secret["metadata"],
                string_data=pulumi.Output.secret(secret["stringData"]),
                opts=pulumi.ResourceOptions(parent=self, provider=provider),
            )
            for secret in render.secrets(settings, show=True)
        ]

"""BGP for the nodes, and the pools that load balancer Services take their addresses from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pulumi
import pulumi_kubernetes as kubernetes

from components.bgp import resources as render
from components.cilium import versions as cilium_versions
from components.cilium.component import Cilium
from components.objects import owned
from components.shell import remote
from stack.bgp import Bgp as Settings

SESSION_GATE = Path(__file__).with_name("session-gate.sh")


@dataclass
class BgpArgs:
    """What is told to whom, and the Cilium that does it."""

    settings: Settings
    cilium: Cilium


class Bgp(pulumi.ComponentResource):
    """The custom resources of BGP, made once their CRDs are Established."""

    def __init__(self, name: str, args: BgpArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("autojoin:index:Bgp", name, None, opts)
        self._prefix = name
        stages = render.stages(args.cilium.version, args.settings)
        needed = render.definitions([resource for stage in stages for resource in stage])
        gate = args.cilium.wait_for(f"{name}-crd-gate", needed, parent=self)
        before = [gate, *self._secrets(args.settings)]
        for stage in stages:
            before = [self._resource(resource, before) for resource in stage]
        self._settings, self._kubeconfig, self._made = args.settings, args.cilium.kubeconfig, before
        self.register_outputs({"localAsn": args.settings.local_asn})

    def await_sessions(self, sessions: list[str], needs: list[pulumi.Resource]) -> None:
        """A gate that opens once `sessions` (NODE/PEER) are up, where the stack asks for one."""
        seconds = self._settings.await_sessions
        if seconds and sessions:
            words = ["sh", "-c", SESSION_GATE.read_text(), "session-gate", str(seconds), *sessions]
            remote.run_here(
                f"{self._prefix}-session-gate",
                create=words,
                environment={"KUBECONFIG": self._kubeconfig},
                parent=self,
                depends_on=[*self._made, *needs],
            )

    def _resource(self, resource: render.Resource, needs: list[pulumi.Resource]) -> pulumi.Resource:
        kind, version = resource["kind"], resource["apiVersion"]
        name = resource["metadata"]["name"]
        # The version is in the URN, and so is the name, which had no prefix once. It is one object
        # whatever they are, so it must be one URN: else it were made under the new one, and then
        # deleted under the old.
        before = [
            pulumi.Alias(name=each, type_=f"kubernetes:{served}:{kind}")
            for each in (f"{self._prefix}-{name}", name)
            for served in sorted(cilium_versions.API_VERSIONS)
        ]
        made: pulumi.Resource = kubernetes.apiextensions.CustomResource(
            f"{self._prefix}-{name}",
            api_version=version,
            kind=kind,
            metadata=owned(resource["metadata"]),
            spec=resource["spec"],
            opts=pulumi.ResourceOptions(parent=self, depends_on=needs, aliases=before),
        )
        return made

    def _secrets(self, settings: Settings) -> list[pulumi.Resource]:
        """The passwords of sessions, where the agents may read them."""
        return [
            kubernetes.core.v1.Secret(
                f"{self._prefix}-{secret['metadata']['name']}",
                metadata=owned(secret["metadata"]),
                string_data=pulumi.Output.secret(secret["stringData"]),
                opts=pulumi.ResourceOptions(
                    parent=self, aliases=[pulumi.Alias(name=secret["metadata"]["name"])]
                ),
            )
            for secret in render.secrets(settings, show=True)
        ]

"""Cilium by Helm, and the gate on the CRDs that its operator registers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

from components import from_lab
from components.cilium import prerequisites
from components.cilium import values as render
from stack import models

CRD_SECONDS = 300
NAMESPACE = "kube-system"


@dataclass
class CiliumArgs:
    """The cluster, the chart's settings, and what of the workers and of BGP decides its values."""

    cluster: models.Cluster
    settings: models.Cilium
    bgp: bool = False
    taints: tuple[str, ...] = ()


class Cilium(pulumi.ComponentResource):
    """The chart's release. `release` is there as soon as Helm is done; pods may still start."""

    def __init__(self, name: str, args: CiliumArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("autojoin:index:Cilium", name, None, opts)
        cluster, settings = args.cluster, args.settings
        self.version = settings.version
        self.kubeconfig = kubeconfig(cluster)
        asked = asyncio.ensure_future(prerequisites.ask(cluster, settings))
        answer: pulumi.Output[prerequisites.Answer] = pulumi.Output.from_input(asked)

        def values(answer: prerequisites.Answer) -> dict[str, Any]:
            decided = from_lab.cilium_settings(
                cluster, settings, args.bgp, args.taints, answer.missing
            )
            return render.helm_values(decided)

        needs = prerequisites.resources(name, settings, self.kubeconfig, parent=self)
        self.release = kubernetes.helm.v3.Release(
            f"{name}-release",
            name=name,
            namespace=NAMESPACE,
            version=settings.version,
            values=answer.apply(values),
            # In values of Helm's a null takes a default of the chart away; up to 4.25 the plugin
            # drops it all the same, of which `make check` warns.
            allow_null_values=True,
            # Waiting deadlocks: the ingress Service waits for a pool, the pool for its CRD.
            skip_await=True,
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=needs,
                transforms=[_keep(asked)],
                hooks=_refuse(name, asked),
            ),
            **chart(settings),
        )
        self.register_outputs({"version": settings.version})

    def wait_for(
        self, name: str, definitions: list[str], parent: pulumi.Resource
    ) -> pulumi.Resource:
        """A gate that opens once the operator has registered `definitions` (NAME/VERSION)."""
        return prerequisites.crd_gate(
            name,
            self.kubeconfig,
            CRD_SECONDS,
            tuple(definitions),
            ["-o"],
            parent,
            depends_on=[self.release],
            triggers=[self.version],
        )


def _keep(asked: Awaitable[prerequisites.Answer]) -> Any:
    """A transform that leaves values as the state has them where the cluster did not answer."""

    async def keep(args: pulumi.ResourceTransformArgs) -> pulumi.ResourceTransformResult | None:
        answer = await asked
        if not answer.kept:
            return None
        paths = [f"values.{path}" for path in answer.kept if _has(args.props["values"], path)]
        kept = pulumi.ResourceOptions(ignore_changes=paths)
        return pulumi.ResourceTransformResult(
            args.props, pulumi.ResourceOptions.merge(args.opts, kept)
        )

    return keep


def _has(values: Any, path: str) -> bool:
    """Whether a user's own values left `path` there: the engine refuses one that leads nowhere."""
    for key in path.split("."):
        if not isinstance(values, Mapping) or key not in values:
            return False
        values = values[key]
    return True


def _refuse(name: str, asked: Awaitable[prerequisites.Answer]) -> pulumi.ResourceHookBinding:
    """Hooks that fail a change of the release where the cluster did not answer."""

    async def refuse(_: pulumi.ResourceHookArgs) -> None:
        answer = await asked
        if answer.silence:
            raise pulumi.RunError(
                f"autojoin:cilium: the release is left as it is: {answer.silence}. Bring the API "
                "server back and run this again; gatewayApi, serviceMonitors and dashboards with "
                "another mode than auto need no answer"
            )

    hook = pulumi.ResourceHook(f"{name}: what the cluster has", refuse)
    return pulumi.ResourceHookBinding(before_create=[hook], before_update=[hook])


def chart(settings: models.Cilium) -> dict[str, object]:
    """Where the chart is: a path, or a name in a repository."""
    if settings.chart_folder:
        return {"chart": str(Path(settings.chart_folder).expanduser())}
    repository = kubernetes.helm.v3.RepositoryOptsArgs(repo=settings.repository)
    return {"chart": settings.chart, "repository_opts": repository}


def kubeconfig(cluster: models.Cluster) -> str:
    """The path of the kubeconfig with which this program reaches the API server."""
    return str(Path(cluster.kubeconfig).expanduser())

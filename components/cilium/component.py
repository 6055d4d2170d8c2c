"""Cilium by Helm, and the gate on the CRDs that its operator registers."""

from __future__ import annotations

from pathlib import Path

import pulumi
import pulumi_kubernetes as kubernetes

from components import from_lab
from components.cilium import prerequisites
from components.cilium import values as render
from stack.models import Lab

CRD_SECONDS = 300
NAMESPACE = "kube-system"


class Cilium(pulumi.ComponentResource):
    """The chart's release. `release` is there as soon as Helm is done; pods may still start."""

    def __init__(
        self,
        name: str,
        lab: Lab,
        provider: kubernetes.Provider,
        opts: pulumi.ResourceOptions | None = None,
    ):
        super().__init__("autojoin:index:Cilium", name, None, opts)
        self.lab = lab
        missing: pulumi.Output[frozenset[str]] = pulumi.Output.from_input(
            prerequisites.missing(lab)
        )
        needs = prerequisites.resources(lab, provider, kubeconfig(lab), parent=self)
        self.release = kubernetes.helm.v3.Release(
            f"{name}-release",
            name=name,
            namespace=NAMESPACE,
            version=lab.cilium.version,
            values=missing.apply(lambda them: render.helm_values(from_lab.cilium(lab, them))),
            # In values of Helm's a null takes a default of the chart away.
            allow_null_values=True,
            # Waiting deadlocks: the ingress Service waits for a pool, the pool for its CRD.
            skip_await=True,
            opts=pulumi.ResourceOptions(parent=self, provider=provider, depends_on=needs),
            **chart(lab),
        )
        self.register_outputs({"version": lab.cilium.version})

    def wait_for(self, definitions: list[str], parent: pulumi.Resource) -> pulumi.Resource:
        """A gate that opens once the operator has registered `definitions` (NAME/VERSION)."""
        return prerequisites.crd_gate(
            "crd-gate",
            kubeconfig(self.lab),
            CRD_SECONDS,
            tuple(definitions),
            ["-o"],
            parent,
            depends_on=[self.release],
            triggers=[self.lab.cilium.version],
        )


def chart(lab: Lab) -> dict[str, object]:
    """Where the chart is: a path, or a name in a repository."""
    if lab.cilium.chart_folder:
        return {"chart": str(Path(lab.cilium.chart_folder).expanduser())}
    repository = kubernetes.helm.v3.RepositoryOptsArgs(repo=lab.cilium.repository)
    return {"chart": lab.cilium.chart, "repository_opts": repository}


def kubeconfig(lab: Lab) -> str:
    """The path of the kubeconfig with which this program reaches the API server."""
    return str(Path(lab.cluster.kubeconfig).expanduser())

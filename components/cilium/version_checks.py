"""Versions that work with each other."""

from __future__ import annotations

from collections.abc import Iterator

from components.cilium.versions import VERSIONS
from stack.models import Lab
from stack.problem import Problem

# Kubernetes' version skew policy: a kubelet is never newer than the API server, and since 1.28 at
# most three minor versions older (kubernetes.io/releases/version-skew-policy).
KUBELET_SKEW = 3
KUBERNETES_MINIMUM = (1, 28)

# Pairs outside Cilium's own list that this project's tests run.
TRIED = {((1, 18), (1, 34))}

_KUBERNETES = "autojoin:cluster.kubernetesVersion"
_CILIUM = "autojoin:cilium.version"


def problems(lab: Lab) -> Iterator[Problem]:
    """Versions that can't work, or that this program can't do."""
    kubelet = minor(lab.cluster.kubernetes_version)
    if kubelet < KUBERNETES_MINIMUM:
        found, hint = lab.cluster.kubernetes_version, f"use {written(KUBERNETES_MINIMUM)} or newer"
        yield Problem(_KUBERNETES, "is too old for this program", found, hint)
    if lab.cluster.control_plane_version is not None:
        yield from _skew(lab.cluster.kubernetes_version, lab.cluster.control_plane_version)


def _skew(kubelet: str, server: str) -> Iterator[Problem]:
    place = "autojoin:cluster.controlPlaneVersion"
    found = f"{kubelet} and {server}"
    newer = minor(kubelet) > minor(server)
    if newer:
        hint = "upgrade the control plane first"
        yield Problem(_KUBERNETES, f"is newer than {place}", found, hint)
    elif (
        minor(kubelet)[0] != minor(server)[0] or minor(server)[1] - minor(kubelet)[1] > KUBELET_SKEW
    ):
        hint = f"a kubelet may be {KUBELET_SKEW} minor versions older"
        yield Problem(_KUBERNETES, f"is too old for {place}", found, hint)


def warnings(lab: Lab) -> Iterator[Problem]:
    """Pairs that may work, but that nobody vouches for."""
    kubelet, cilium = minor(lab.cluster.kubernetes_version), minor(lab.cilium.version)
    release = VERSIONS.get(written(cilium))
    if release is None or (cilium, kubelet) in TRIED:
        return
    # Others "depend on the compatibility offered by Kubernetes": a warning.
    low, high = release.tested_kubernetes
    if not low <= kubelet <= high:
        found = f"Kubernetes {lab.cluster.kubernetes_version}"
        hint = f"Cilium {written(cilium)} is tested with {written(low)} to {written(high)}"
        yield Problem(_CILIUM, "is not tested with this Kubernetes", found, hint)


def minor(version: str) -> tuple[int, int]:
    """`1.34.2` as (1, 34)."""
    first, second, _ = version.split(".")
    return int(first), int(second)


def written(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"

"""What the releases of Debian and Ubuntu bring: data, and the look-ups."""

from __future__ import annotations

from collections.abc import Iterable

# Packages that only some releases have. From 24.04 on Ubuntu's linux-modules-raspi holds what
# linux-modules-extra-raspi held; Debian has neither.
ONLY = {"linux-modules-extra-raspi": ("ubuntu-22.04",)}
# The containerd that a release came with, major and minor. Updates of Ubuntu may bring a newer one.
CONTAINERD = {
    "debian-12": (1, 6),
    "debian-13": (1, 7),
    "ubuntu-22.04": (1, 5),
    "ubuntu-24.04": (1, 7),
}
# From which Kubernetes on which containerd is supported
# (kubernetes.io/docs/setup/production-environment/container-runtimes).
NEEDED_CONTAINERD = ((1, 36), (2, 0))


def there(packages: Iterable[str], release: str) -> tuple[str, ...]:
    """Those of `packages` that a release has."""
    return tuple(name for name in packages if release in ONLY.get(name, (release,)))

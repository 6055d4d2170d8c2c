"""Where the lab's machines find their images and their bridge; its keys made before it runs."""

from __future__ import annotations

from lab import pki
from lab.place import Place, lock

BRIDGE = "br0"
REGISTRY_PORT = 5000
IMAGE = "/var/lib/autojoin/image"  # paths in the hypervisor; the topmost folder comes first
WORKER_IMAGE = f"/var/lib/autojoin/layers/worker:{IMAGE}"


def prepare(place: Place) -> None:
    """Make the lab's keys and certificates where they are missing; starts nothing."""
    with lock(place.root):
        pki.ensure(place)

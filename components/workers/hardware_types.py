"""The types of hardware: one is one file, with what it emits and its component."""

from __future__ import annotations

from components import from_lab
from components.workers.bare_metal import BareMetalWorker
from components.workers.bhyve import BhyveWorker
from components.workers.hardware import Delivery, Emission, Hardware, Site
from components.workers.nspawn import NspawnWorker
from components.workers.turing_cm4 import TuringCm4Worker
from components.workers.turing_rk1 import TuringRk1Worker
from components.workers.worker import Worker
from stack.models import Lab

WORKERS: dict[str, type[Worker]] = {
    kind.hardware.name: kind
    for kind in (BhyveWorker, TuringRk1Worker, TuringCm4Worker, BareMetalWorker, NspawnWorker)
}
HARDWARE: dict[str, type[Hardware]] = {name: kind.hardware for name, kind in WORKERS.items()}

__all__ = ["HARDWARE", "WORKERS", "Delivery", "Emission", "Hardware", "Site", "of"]


def of(lab: Lab, name: str) -> Hardware:
    """What worker `name` of a lab is, by its type."""
    settings = lab.workers[name]
    site = Site(
        lab.cluster,
        from_lab.gate_url(lab),
        lab.provisioner(settings),
        lab.boards.get(settings.bmc or ""),
        lab.registries,
        lab.dns_address,
    )
    return HARDWARE[settings.hardware](name, settings, site)

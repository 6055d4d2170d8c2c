"""Workers: one hardware type is one file with one class."""

from __future__ import annotations

from components.workers.base import Worker
from components.workers.nspawn import MachineHost, Nspawn

HARDWARE: dict[str, type[Worker]] = {kind.hardware: kind for kind in (Nspawn,)}

__all__ = ["HARDWARE", "MachineHost", "Nspawn", "Worker"]

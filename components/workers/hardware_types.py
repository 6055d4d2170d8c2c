"""Workers: one hardware type is one file with one class."""

from __future__ import annotations

from components.workers.bare_metal import BareMetal
from components.workers.bhyve import Bhyve
from components.workers.hardware import Delivery, Emission, Hardware
from components.workers.nspawn import Nspawn
from components.workers.turing_cm4 import TuringCm4
from components.workers.turing_rk1 import TuringRk1

HARDWARE: dict[str, type[Hardware]] = {
    kind.name: kind for kind in (Bhyve, TuringRk1, TuringCm4, BareMetal, Nspawn)
}

__all__ = ["HARDWARE", "Delivery", "Emission", "Hardware"]

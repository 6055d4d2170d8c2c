"""Workers: one hardware type is one file with one class."""

from __future__ import annotations

from render.hardware.bare_metal import BareMetal
from render.hardware.base import Delivery, Emission, Hardware
from render.hardware.bhyve import Bhyve
from render.hardware.nspawn import Nspawn
from render.hardware.turing_cm4 import TuringCm4
from render.hardware.turing_rk1 import TuringRk1

HARDWARE: dict[str, type[Hardware]] = {
    kind.name: kind for kind in (Bhyve, TuringRk1, TuringCm4, BareMetal, Nspawn)
}

__all__ = ["HARDWARE", "Delivery", "Emission", "Hardware"]

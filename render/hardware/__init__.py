"""Workers: one hardware type is one file with one class."""

from __future__ import annotations

from render.hardware.base import Delivery, Emission, Hardware
from render.hardware.nspawn import Nspawn

HARDWARE: dict[str, type[Hardware]] = {kind.name: kind for kind in (Nspawn,)}

__all__ = ["HARDWARE", "Delivery", "Emission", "Hardware"]

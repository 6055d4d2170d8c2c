"""A worker that is an RK1 module of a Turing Pi."""

from __future__ import annotations

from components.workers.board import Module
from components.workers.worker import Worker


class TuringRk1(Module):
    """Needs an image made for the RK1: the generic arm64 ones do not boot on it.

    Those images take their seed from a FAT partition labelled CIDATA. NVMe or eMMC, as
    `storageDisk` names it, holds the container runtime's data.
    """

    name = "turing-rk1"
    volume = "CIDATA"


class TuringRk1Worker(Worker):
    """An RK1: its files and the script of its board are delivered; a person flashes it."""

    token = "autojoin:workers:TuringRk1Worker"
    hardware = TuringRk1

"""A worker that is a Raspberry Pi CM4 module of a Turing Pi."""

from __future__ import annotations

from components.workers.board import Module
from components.workers.worker import Worker


class TuringCm4(Module):
    """Takes its seed from the boot partition of Ubuntu's Raspberry Pi image.

    Its kernel has control groups for memory only when asked to, and no clock of its own: the join
    waits for time. In some releases VXLAN is in a package of modules apart.
    """

    name = "turing-cm4"
    volume = "system-boot"
    ubuntu_alone = "board.sh prepares Ubuntu's image for the Raspberry Pi"
    command_line = ("cgroup_enable=memory", "cgroup_memory=1")
    packages = ("linux-modules-extra-raspi",)


class TuringCm4Worker(Worker):
    """A CM4: its files and the script of its board are delivered; a person flashes it."""

    token = "autojoin:workers:TuringCm4Worker"
    hardware = TuringCm4

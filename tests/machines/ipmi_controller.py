"""A controller of a virtual machine that speaks IPMI, by pyghmi's server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

from pyghmi.ipmi import bmc  # type: ignore[import-untyped]
from pyghmi.ipmi.private.session import Session  # type: ignore[import-untyped]

from lab.machine import Machine
from tests.unit.tools.plugins.ssh_server import free_port

USER, PASSWORD = "admin", "password"
ADDRESS = "127.0.0.1"


class Controller(bmc.Bmc):  # type: ignore[misc]
    """Its power, and what it boots from next: that holds for one start, as it was asked for."""

    def __init__(self, machine: Machine, port: int):
        super().__init__({USER: PASSWORD}, port=port, address=ADDRESS)
        self.machine = machine

    def get_power_state(self) -> str:
        return "off" if self.machine.process is None else "on"

    def power_on(self) -> None:
        if self.machine.process is None:
            self.machine.power_on()
            self.machine.from_network = False

    def power_off(self) -> None:
        self.machine.power_off()

    def set_boot_device(self, bootdevice: str) -> None:
        self.machine.from_network = bootdevice == "network"


@contextmanager
def controller(machine: Machine) -> Iterator[dict[str, Any]]:
    """The machine's controller while it listens; its entry of `autojoin:boards`."""
    port, ended = free_port(), Event()
    # The machine ends with the thread that started it.
    thread = Thread(target=_serve, args=(machine, port, ended), daemon=True)
    thread.start()
    try:
        yield {"protocol": "ipmi", "address": ADDRESS, "port": port,
               "user": USER, "password": PASSWORD}  # fmt: skip
    finally:
        ended.set()
        thread.join()


def _serve(machine: Machine, port: int, ended: Event) -> None:
    Controller(machine, port)
    while not ended.is_set():
        Session.wait_for_rsp(timeout=0.2)
    machine.power_off()

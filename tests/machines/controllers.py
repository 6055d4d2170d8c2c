"""Controllers of a virtual machine: its power, and what it boots from next, once.

IPMI by pyghmi's server, Redfish by sushy-tools' service with this machine in place of its simulated
one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

from pyghmi.ipmi import bmc  # type: ignore[import-untyped]
from pyghmi.ipmi.private.session import Session  # type: ignore[import-untyped]
from sushy_tools.emulator import main as redfish_service  # type: ignore[import-untyped]
from sushy_tools.emulator.resources.systems.fakedriver import (  # type: ignore[import-untyped]
    FakeDriver,
)
from werkzeug.serving import make_server

from lab.machine import Machine, Network
from tests.unit.components.machine_host import test_power_script as simulated
from tests.unit.tools.plugins.ssh_server import free_port

ADDRESS = "127.0.0.1"


def switch_on(machine: Machine) -> None:
    if machine.process is None:
        machine.power_on()


class Ipmi(bmc.Bmc):  # type: ignore[misc]
    def __init__(self, machine: Machine, address: str, port: int):
        super().__init__({simulated.USER: simulated.PASSWORDS["ipmi"]}, port=port, address=address)
        self.machine = machine

    def get_power_state(self) -> str:
        return "off" if self.machine.process is None else "on"

    def power_on(self) -> None:
        switch_on(self.machine)

    def power_off(self) -> None:
        self.machine.power_off()

    def set_boot_device(self, bootdevice: str) -> None:
        self.machine.from_network = bootdevice == "network"


class Redfish(FakeDriver):  # type: ignore[misc]
    machine: Machine

    def get_power_state(self, identity: str) -> str:
        return "Off" if self.machine.process is None else "On"

    def set_power_state(self, identity: str, state: str) -> None:
        switch_on(self.machine) if state in ("On", "ForceOn") else self.machine.power_off()

    def set_boot_device(self, identity: str, boot_source: str) -> None:
        super().set_boot_device(identity, boot_source)
        self.machine.from_network = boot_source == "Pxe"


# Who serves until it is over, in a thread of its own: with that the machine ends, which it started.
Serve = Callable[[Event], None]


def ipmi(machine: Machine, address: str, folder: Path) -> tuple[dict[str, Any], Serve]:
    port = free_port()

    def serve(over: Event) -> None:
        Ipmi(machine, address, port)
        while not over.is_set():
            Session.wait_for_rsp(timeout=0.2)

    return {"port": port, "password": simulated.PASSWORDS["ipmi"]}, serve


def redfish(machine: Machine, address: str, folder: Path) -> tuple[dict[str, Any], Serve]:
    _, entry = simulated.redfish(folder, systems=1, obeys_after=0)
    settings = {"SUSHY_EMULATOR_FAKE_DRIVER": True}
    redfish_service.app.configure(str(folder / "settings"), settings)
    redfish_service.fakedriver.FakeDriver = type("Driver", (Redfish,), {"machine": machine})

    def serve(over: Event) -> None:
        key = (str(folder / "cert.pem"), str(folder / "key.pem"))
        with make_server(address, entry["port"], redfish_service.app, ssl_context=key) as server:
            server.timeout = 0.2
            while not over.is_set():
                server.handle_request()

    return entry, serve


PROTOCOLS = {"ipmi": ipmi, "redfish": redfish}


@contextmanager
def controller(
    protocol: str,
    machine: Machine,
    folder: Path,
    network: Network | None = None,
    address: str = ADDRESS,
) -> Iterator[dict[str, Any]]:
    """The machine's controller while it listens, in `network` or here; its entry of
    `autojoin:boards`."""
    entry, serve = PROTOCOLS[protocol](machine, address, folder)
    over = Event()

    def run() -> None:
        if network:
            network.enter()
        serve(over)
        machine.power_off()

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        yield entry | {"protocol": protocol, "address": address, "user": simulated.USER}
    finally:
        over.set()
        thread.join()

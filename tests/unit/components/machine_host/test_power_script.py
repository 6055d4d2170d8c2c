"""power.sh for real, against controllers that others wrote: sushy-tools' Redfish, pyghmi's IPMI.

Each is in a network namespace of its own, as is who asks it. What is switched is no machine here.
"""

from __future__ import annotations

import base64
import copy
import datetime
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from components.load import from_values
from components.workers.bare_metal import POWER_SCRIPT
from components.workers.hardware_types import Emission, Hardware, of
from stack.problem import ConfigError
from tests.unit.components.examples import AUTHORITY_PEM
from tests.unit.components.machine_host.test_deliver_script import (
    applying,
    given,
    install,
    removing,
)
from tests.unit.components.workers.test_hardware import SECRET, VALUES

NODE = "metal"
USER, PASSWORD = "admin", 'a "pass\\word'
# ipmitool takes twenty characters of a password, pyghmi's fakebmc has none but this.
PASSWORDS = {"redfish": PASSWORD, "ipmi": "password"}
START_SECONDS = 20
SYSTEM = "27946b59-9e44-4fa7-8e91-f3527a1ef094"
# Its fake machine takes up to 11 seconds to obey; here as many as told.
REDFISH = """\
import random, sys
from sushy_tools.emulator.main import main
seconds = int(sys.argv.pop(1))
random.randint = lambda least, most: seconds
main()
"""
NEVER = 3600
WAKE_UP = """\
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
    listener.bind(("127.0.0.1", 9))
    print("listens", flush=True)
    print(listener.recv(200).hex(), flush=True)
"""


@dataclass
class Controller:
    """A controller that listens, as the entry of `autojoin:boards` has it."""

    settings: dict[str, Any]
    inside: tuple[str, ...]
    folder: Path

    @property
    def protocol(self) -> str:
        return str(self.settings["protocol"])

    def power(self, *words: str, status: int = 0, **changes: str) -> str:
        """What power.sh says, with other settings where told."""
        given = {"NODE": NODE, "MAC": "02:00:00:00:00:01", "MANAGER": self.protocol}
        given |= {
            "BMC": self.settings["address"],
            "BMC_PORT": str(self.settings.get("port", "")),
            "BMC_USER": USER,
            "BMC_PUBLIC_KEY": self.settings.get("publicKey", ""),
            "SYSTEM": "",
        } | changes
        node = self.folder / "node"
        node.mkdir(exist_ok=True)
        (node / "power.sh").write_bytes(POWER_SCRIPT.read_bytes())
        (node / "power.env").write_text("".join(f"{k}='{v}'\n" for k, v in given.items()))
        (node / "bmc-password").write_text(changes.get("PASSWORD", self.settings["password"]))
        answer = subprocess.run(
            [*self.inside, "dash", str(node / "power.sh"), *words],
            capture_output=True, text=True, env={**os.environ, **changes},
        )  # fmt: skip
        assert answer.returncode == status, answer.stderr
        return (answer.stderr or answer.stdout).strip()

    def ask(self) -> tuple[str, str]:
        """Power, and what it boots from next, told by other programs than power.sh."""
        if self.protocol == "ipmi":
            power = self._ipmi("power", "status").split()[-1]
            boot = self._ipmi("bootparam", "get", "5")
            return power, "network" if "Force PXE" in boot else "disk"
        found = json.loads(self._redfish())
        boot = found["Boot"]["BootSourceOverrideTarget"]
        return found["PowerState"].lower(), "network" if boot == "Pxe" else "disk"

    def boots_from_disk(self) -> None:
        """As after its installation."""
        if self.protocol == "ipmi":
            self._ipmi("bootdev", "disk")
            return
        body = '{"Boot": {"BootSourceOverrideTarget": "Hdd"}}'
        self._redfish("--request", "PATCH", "--json", body)

    def _ipmi(self, *words: str) -> str:
        user = ["-U", USER, "-P", self.settings["password"]]
        there = ["ipmitool", "-I", "lanplus", "-H", self.settings["address"]]
        return self._said([*there, *user, "chassis", *words])

    def _redfish(self, *words: str) -> str:
        url = f"https://127.0.0.1:{self.settings['port']}/redfish/v1/Systems/{SYSTEM}"
        user = f"{USER}:{self.settings['password']}"
        return self._said(["curl", "--fail", "--silent", "--show-error", "--insecure",
                           "--user", user, *words, url])  # fmt: skip

    def _said(self, words: list[str]) -> str:
        answer = subprocess.run([*self.inside, *words], capture_output=True, text=True, check=True)
        return answer.stdout


@pytest.fixture(scope="module")
def network() -> Iterator[tuple[str, ...]]:
    """What a command begins with in a network of the tests' own."""
    script = "ip link set lo up && echo up && exec cat"
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdin and holder.stdout
        assert holder.stdout.readline() == b"up\n"
        yield ("nsenter", f"--net=/proc/{holder.pid}/ns/net", "--")
        holder.stdin.close()


def pair(folder: Path) -> str:
    """A self-signed certificate and its key in `folder`; the pin of its public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bmc")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "key.pem").write_bytes(text)
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return f"sha256//{base64.b64encode(hashlib.sha256(public).digest()).decode()}"


def redfish(folder: Path, systems: int, obeys_after: int) -> tuple[list[str], dict[str, Any]]:
    """The command of a Redfish service, and its entry."""
    pin = pair(folder)
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    (folder / "users").write_text(f"{USER}:{hashed}\n")
    uuids = [SYSTEM, *(f"{number}{SYSTEM[1:]}" for number in range(3, 2 + systems))]
    known = [
        {"uuid": uuid, "name": uuid, "power_state": "Off", "nics": [], "external_notifier": False}
        for uuid in uuids
    ]
    (folder / "settings").write_text(
        f"SUSHY_EMULATOR_AUTH_FILE = {str(folder / 'users')!r}\n"
        f"SUSHY_EMULATOR_STATE_DIR = {str(folder)!r}\n"
        f"SUSHY_EMULATOR_FAKE_SYSTEMS = {known!r}\n"
    )
    words = ["--fake", "--config", str(folder / "settings"), "--interface", "127.0.0.1"]
    words += ["--port", "8443", "--ssl-certificate", str(folder / "cert.pem")]
    words += ["--ssl-key", str(folder / "key.pem")]
    entry = {"protocol": "redfish", "port": 8443, "publicKey": pin, "password": PASSWORD}
    return [sys.executable, "-c", REDFISH, str(obeys_after), *words], entry


@pytest.fixture(params=["redfish", "ipmi"])
def controller(
    request: pytest.FixtureRequest, network: tuple[str, ...], tmp_path: Path
) -> Iterator[Controller]:
    with running(request.param, network, tmp_path) as found:
        yield found


@contextmanager
def running(
    protocol: str,
    network: tuple[str, ...],
    folder: Path,
    systems: int = 1,
    obeys_after: int = 1,
) -> Iterator[Controller]:
    if protocol == "redfish":
        command, entry = redfish(folder, systems, obeys_after)
    else:
        command = [sys.executable, "-m", "pyghmi.cmd.fakebmc"]
        entry = {"protocol": "ipmi", "password": PASSWORDS["ipmi"]}
    entry |= {"address": "127.0.0.1", "user": USER}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*network, *command], stdout=log, stderr=log)
    found = Controller(entry, network, folder)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert process.poll() is None, (folder / "log").read_text()
            try:
                found.ask() if systems == 1 else found.power("state", SYSTEM=SYSTEM)
                break
            except (subprocess.CalledProcessError, AssertionError):
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.2)
        yield found
    finally:
        process.terminate()
        process.wait()


def test_it_boots_from_the_network_next_whether_it_was_on_or_off(controller: Controller) -> None:
    assert controller.power("state") == "off"
    assert controller.power("install") == ""
    assert controller.ask() == ("on", "network")
    controller.boots_from_disk()
    assert controller.power("install") == ""
    assert controller.ask() == ("on", "network")
    assert controller.power("off") == ""
    assert controller.ask()[0] == "off"
    assert controller.power("off") == ""


def test_what_is_wrong_is_one_sentence(controller: Controller) -> None:
    refused = controller.power("--may-be-made", status=2, PASSWORD="another")
    assert refused.startswith(f"{NODE}: its controller at 127.0.0.1 ")
    assert f"refuses {USER} with that password" in refused
    nobody = controller.power("--may-be-made", status=2, BMC="127.0.0.9", BMC_PORT="1")
    assert nobody.startswith(f"{NODE}: its controller at 127.0.0.9"), nobody
    assert {len(said.splitlines()) for said in (refused, nobody)} == {1}
    assert controller.power("--may-be-made") == ""


def test_a_machine_that_stays_off_is_told(network: tuple[str, ...], tmp_path: Path) -> None:
    with running("redfish", network, tmp_path, obeys_after=NEVER) as found:
        said = found.power("install", status=1, SECONDS_TO_SWITCH="1")
        assert said == f"{NODE}: it stays off: its controller at 127.0.0.1 was told on 1 s ago"


def test_another_controller_is_not_told_the_password(
    network: tuple[str, ...], tmp_path: Path
) -> None:
    with running("redfish", network, tmp_path) as found:
        other = f"sha256//{base64.b64encode(bytes(32)).decode()}"
        asked = (tmp_path / "log").read_text().count("GET /")
        assert asked
        said = found.power("--may-be-made", status=2, BMC_PUBLIC_KEY=other)
        assert "public key" in said
        assert (tmp_path / "log").read_text().count("GET /") == asked


def test_one_system_of_several_is_named(network: tuple[str, ...], tmp_path: Path) -> None:
    with running("redfish", network, tmp_path, systems=2) as found:
        said = found.power("--may-be-made", status=2)
        assert said.startswith(f"{NODE}: its controller at 127.0.0.1 has several systems: /redfish")
        assert found.power("install", SYSTEM=SYSTEM) == ""
        assert found.ask() == ("on", "network")


def test_a_packet_wakes_it(network: tuple[str, ...], tmp_path: Path) -> None:
    found = Controller({"protocol": "wake-on-lan", "address": "127.0.0.1", "password": ""},
                       network, tmp_path)  # fmt: skip
    listener = [*network, sys.executable, "-c", WAKE_UP]
    with subprocess.Popen(listener, stdout=subprocess.PIPE, text=True) as heard:
        assert heard.stdout and heard.stdout.readline() == "listens\n"
        assert found.power("install") == ""
        assert heard.stdout.readline() == f"{'ff' * 6}{'020000000001' * 16}\n"
    assert found.power("off").endswith("switches no machine off; do that by hand")


# --- by deliver.sh ----------------------------------------------------------------------------


@dataclass
class Host:
    """The boot server, and the machine's controller."""

    folder: Path
    controller: Controller

    def node(self, by_hand: bool = False, **changes: Any) -> tuple[Hardware, Emission]:
        values = copy.deepcopy(VALUES)
        values["boards"]["bmc-2"] = self.controller.settings
        values["workers"][NODE] |= ({} if by_hand else {"bmc": "bmc-2"}) | changes
        node = of(from_values(values), NODE)
        return node, node.emit(SECRET, AUTHORITY_PEM)

    def run(self, command: str, stdin: str = "") -> tuple[int, str]:
        answer = subprocess.run(
            [*self.controller.inside, "dash", "-c", command],
            input=stdin, capture_output=True, text=True,
        )  # fmt: skip
        return answer.returncode, answer.stderr

    def apply(self, **changes: Any) -> tuple[int, str]:
        install(self.folder)
        node, emission = self.node(**changes)
        stdin = given(dict(node.delivered_files(emission)), emission.identity)
        return self.run(applying(NODE, self.folder), stdin)

    def remove(self, **changes: Any) -> tuple[int, str]:
        return self.run(removing(NODE, self.folder, self.node(**changes)[1].identity))


def test_it_is_installed_once_for_each_generation(controller: Controller, tmp_path: Path) -> None:
    host = Host(tmp_path / "http", controller)
    assert host.apply() == (0, "")
    assert controller.ask() == ("on", "network")
    controller.boots_from_disk()
    for changes in ({}, {"labels": {"a": "b"}}, {}):
        assert host.apply(**changes) == (0, "")
        assert controller.ask() == ("on", "disk"), "a machine that runs is let alone"
    controller.power("off")
    assert host.apply() == (0, "")
    assert controller.ask() == ("off", "disk"), "who switched it off had a reason"
    assert host.apply(generation=2) == (0, "")
    assert controller.ask() == ("on", "network")
    assert host.remove(generation=1)[0] == 0
    assert controller.ask()[0] == "on", "a removal is of one identity"
    assert host.remove(generation=2) == (0, "")
    assert controller.ask()[0] == "off"


def test_a_machine_that_a_person_installed_is_let_alone(
    controller: Controller, tmp_path: Path
) -> None:
    host = Host(tmp_path / "http", controller)
    assert host.apply(by_hand=True) == (0, "")
    assert host.apply() == (0, "")
    assert controller.ask() == ("off", "disk")
    assert host.apply(generation=2) == (0, "")
    assert controller.ask() == ("on", "network")


def test_one_that_was_refused_is_installed_once_it_may_be(
    controller: Controller, tmp_path: Path
) -> None:
    host = Host(tmp_path / "http", controller)
    right = controller.settings
    wrong = replace(controller, settings={**right, "password": "another"})
    for _ in range(2):
        status, said = Host(host.folder, wrong).apply()
        assert status == 1
        assert "refuses admin with that password" in said
    assert controller.ask() == ("off", "disk")
    assert host.apply() == (0, "")
    assert controller.ask() == ("on", "network")


def test_what_a_controller_needs_is_asked_for() -> None:
    def said(entry: dict[str, Any] | None, **worker: Any) -> str:
        values = copy.deepcopy(VALUES)
        values["workers"][NODE] |= {"bmc": "bmc-2", **worker}
        if entry is not None:
            values["boards"]["bmc-2"] = {"address": "192.168.10.60", **entry}
        try:
            from_values(values)
        except ConfigError as error:
            return str(error)
        return ""

    assert "autojoin:boards.bmc-2.protocol: does not fit its worker" in said({"password": "x"})
    assert "autojoin:workers.metal.bmc: is no board of autojoin:boards" in said(None)
    asked = said({"protocol": "redfish"})
    assert "autojoin:boards.bmc-2.password: is required, as `pulumi up` starts metal by it" in asked
    assert "autojoin:boards.bmc-2.publicKey: is required" in asked
    assert "publicKey" not in said({"protocol": "ipmi"})
    assert said({"protocol": "wake-on-lan"}) == ""


def test_the_graph_waits_for_it_as_it_starts_it() -> None:
    values = copy.deepcopy(VALUES)
    values["boards"]["bmc-2"] = {"address": "192.168.10.60", "protocol": "wake-on-lan"}
    by_hand = of(from_values(values), NODE)
    values["workers"][NODE]["bmc"] = "bmc-2"
    node = of(from_values(values), NODE)
    assert (node.awaited, node.join_timeout) == (True, 3600)
    assert (by_hand.awaited, by_hand.join_timeout) == (False, 300)
    assert node.named(SECRET).identity == by_hand.named(SECRET).identity

"""The CFSSL that a CA host runs: its own where it does, else one that is brought; real ones."""

from __future__ import annotations

import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from components.certificate_authority import cfssl
from components.certificate_authority.platforms import PLATFORMS
from tests.unit.components.certificate_authority.authority_machine import ADDRESS, Machine, key_pem
from tests.unit.components.certificate_authority.authority_stack import AuthorityStack
from tests.unit.components.certificate_authority.conftest import both_processors
from tests.unit.components.certificate_authority.test_authority_scripts import (
    CA,
    CA_KEY,
    good,
    rows,
)
from tests.unit.tools.plugins.plugin_engine import Project
from tests.unit.tools.plugins.ssh_server import SshServer
from tools import install, pins

pytestmark = pytest.mark.full

DEBIANS = "/usr/bin/cfssl"  # 1.2.0, of 2016


@pytest.fixture
def machine(processor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    try:
        (machine.source / "ca.pem").write_bytes(CA)
        (machine.source / "ca-key.pem").write_bytes(key_pem(CA_KEY))
        own(machine, monkeypatch, known())
        yield machine
    finally:
        machine.close()


def known() -> str:
    return shutil.which("cfssl") or ""


def own(machine: Machine, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """`program` is where a package of the platform puts its CFSSL."""
    monkeypatch.setitem(PLATFORMS, "linux", replace(machine.platform, cfssl=program))


def program(machine: Machine) -> Path:
    return Path(machine.platform.programs, "cfssl")


def test_a_fit_one_of_the_hosts_own_is_used(machine: Machine) -> None:
    chosen = good(machine.choose_cfssl("auto"))
    assert (chosen.stdout, chosen.stderr) == ("", "")
    assert str(program(machine).readlink()) == known()
    good(machine.install_authority(cfssl="auto"))
    assert rows(machine) == [("OCSP signer", "good")]
    assert f"{program(machine)} serve" in machine.run("ps -e -o args").stdout


UNFIT = {
    "of 2016": (DEBIANS, "version 1.2.0: `serve` does not answer: flag provided but not defined"),
    "no CFSSL": ("/bin/true", "version of no version: `serve` does not answer"),
    "without sqlite": ("wrapped", "version 1.6.5: it keeps no row of what it signs in the certdb"),
    "open": ("open", "version 1.6.5: `serve -disable` leaves newcert open to anybody"),
}
# What is left out of the command line, each with its value.
LEFT_OUT = {"wrapped": "-db-config", "open": "-disable"}
WITHOUT = """\
skip=
for word; do
    shift
    if [ -n "$skip" ]; then skip=; continue; fi
    if [ "$word" = {option} ]; then skip=yes; continue; fi
    set -- "$@" "$word"
done
exec {program} "$@"
"""


@pytest.mark.parametrize("case", UNFIT)
def test_an_unfit_one_is_named_with_its_version_and_one_is_asked_for(
    machine: Machine, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, said = UNFIT[case]
    if path in LEFT_OUT:
        machine.stub("odd", WITHOUT.format(option=LEFT_OUT[path], program=known()))
        path = str(machine.root / "bin/odd")
    own(machine, monkeypatch, path)
    chosen = good(machine.choose_cfssl("auto"))
    assert chosen.stdout.strip() == subprocess.check_output(["uname", "-m"], text=True).strip()
    assert chosen.stderr.startswith(f"{ADDRESS}: {path} does not do, {said}"), chosen.stderr
    assert chosen.stderr.endswith(f"CFSSL {cfssl.VERSION} is brought\n")
    assert not program(machine).exists()
    refused = machine.choose_cfssl(path)
    assert refused.returncode == 1
    key = f"{ADDRESS}: certificateAuthority.cfssl: {path} does not do, {said}"
    assert refused.stderr.startswith(key) and "give another path, or auto" in refused.stderr


@both_processors
def test_a_brought_one_runs_is_not_brought_twice_and_goes_with_the_rest(machine: Machine) -> None:
    assert good(machine.choose_cfssl("shipped")).stdout
    good(machine.take_cfssl(Path(known()).read_bytes()))
    assert program(machine).read_bytes() == Path(known()).read_bytes()
    assert stat.S_IMODE(program(machine).stat().st_mode) == 0o755  # the service has its own user
    assert good(machine.choose_cfssl("shipped")).stdout == ""
    good(machine.install_authority(cfssl="shipped"))
    # Of an earlier release, or not whole: brought anew, and CFSSL restarts with it.
    Path(f"{program(machine)}.release").write_text("1.6.4-000000000000\n")
    assert good(machine.choose_cfssl("shipped")).stdout
    program(machine).unlink()  # it runs: its file can't be written
    program(machine).write_bytes(Path(known()).read_bytes()[:9_000_000])
    program(machine).chmod(0o755)
    assert good(machine.choose_cfssl("shipped")).stdout
    good(machine.take_cfssl(Path(known()).read_bytes() + b"another"))
    machine.forget()
    assert "restarted for: cfssl.sha256" in good(machine.install_authority(cfssl="shipped")).stderr
    assert machine.restarted() == ["cfssl"]


def test_one_that_does_not_run_there_is_not_taken(machine: Machine) -> None:
    refused = machine.take_cfssl(b"\x7fELF of another machine")
    assert refused.returncode == 1 and not program(machine).exists()
    assert "the CFSSL that was brought does not do here, version of no version" in refused.stderr


@pytest.mark.parametrize("found", ["Python 3 8 cryptography 41", "Python 3 9 cryptography 35"])
def test_an_old_python_is_told_before_anything_changes(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    """What check_python asks for, under a Python that says it is an older one."""
    minor, version = found.split()[2], found.split()[-1]
    faked = (
        f"import sys, types; sys.version_info = (3, {minor}, 0);"
        f' sys.modules["cryptography"] = types.SimpleNamespace(__version__="{version}.0.1");'
    )
    machine.stub("old-python", f'shift 2; exec /usr/bin/python3 -I -c \'{faked} \'"$1" "$@"')
    old = str(machine.root / "bin/old-python")
    packages = {"openssl": "openssl"}
    changed = replace(machine.platform, python=old, packages=packages)
    monkeypatch.setitem(PLATFORMS, "linux", changed)
    before = machine.snapshot()
    refused = machine.choose_cfssl("auto")
    assert refused.returncode == 1
    assert f"{old} is too old: found {found}" in refused.stderr, refused.stderr
    assert machine.snapshot() == before


@both_processors
def test_up_brings_it_to_a_host_without_one(processor: str, tmp_path: Path) -> None:
    """By the real engine over a real sshd; the second `up` leaves it alone."""
    for name in ("sshd", "project"):
        (tmp_path / name).mkdir()
    machine, server = Machine(tmp_path / "machine"), SshServer(tmp_path / "sshd")
    try:
        (machine.source / "ca.pem").write_bytes(CA)
        (machine.source / "ca-key.pem").write_bytes(key_pem(CA_KEY))
        machine.stub("cfssl", f'exec {DEBIANS} "$@"')
        machine.stub("uname", f"echo {processor}")
        files = Path(pins.CHECKOUT, "components/certificate_authority/on_host")
        stack = AuthorityStack(Project(tmp_path / "project"), machine, server, files)
        server.start()
        shown = stack.up()
        assert "cfssl does not do, version 1.2.0:" in shown
        assert f"127.0.0.1: CFSSL {cfssl.VERSION} was brought: {program(machine)}" in shown
        assert program(machine).read_bytes() == Path(known()).read_bytes()
        assert "unchanged" in stack.up()
        assert rows(machine) == [("OCSP signer", "good")]
    finally:
        server.stop()
        machine.close()


# The byte of ELF's header that tells the system, and the number that tells the processor. illumos
# is told by its loader alone.
SYSTEMS = {"linux": 0, "netbsd": 2, "illumos": 0, "freebsd": 9, "openbsd": 12}
LOADER = b"/lib/amd64/ld.so.1"
PROCESSORS = {"amd64": 62, "arm64": 183}


@pytest.mark.parametrize("platform", pins.CFSSL_PLATFORMS)
def test_it_is_made_for_every_platform(platform: tuple[str, str]) -> None:
    """The first time all six take six minutes of CPU."""
    system, processor = platform
    program = install.cfssl(system, processor).read_bytes()
    assert program[:5] == b"\x7fELF\x02"
    assert program[7] == SYSTEMS[system]
    assert (LOADER in program) == (system == "illumos")
    assert int.from_bytes(program[18:20], "little") == PROCESSORS[processor]


def test_the_release_is_told_alike() -> None:
    assert cfssl.VERSION == pins.CFSSL_VERSION
    module = (pins.MODULES / "cfssl/go.mod").read_text()
    assert f"github.com/cloudflare/cfssl v{cfssl.VERSION}\n" in module

"""The platforms that this machine is not: what is emitted for them, run as far as it goes here.

Their installers, their rc.d scripts and the commands of their manifests really run, with the real
CFSSL; only the service tools are stood in for (platform_tools.py). What the real platform would say
to them was never heard; docs/ca.md says so.
"""

from __future__ import annotations

import re
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from components.certificate_authority import installation as authority
from components.certificate_authority.authority_host import FILES, AuthorityHost
from components.certificate_authority.platforms import PLATFORMS, Service, smf
from components.join_gate import installation as join_gate
from tests.unit.components.certificate_authority.authority_machine import Machine, key_pem
from tests.unit.components.certificate_authority.platform_tools import EMULATOR
from tests.unit.components.certificate_authority.test_authority_scripts import (
    CA,
    CA_KEY,
    LISTENER,
    good,
    rows,
)

OTHERS = ("illumos", "freebsd", "openbsd", "netbsd")
BSDS = ("freebsd", "openbsd", "netbsd")
DTD = Path(__file__).parent / "service_bundle.dtd"


def host(platform: str) -> AuthorityHost:
    return AuthorityHost(platform, "192.0.2.2", "existing", "/ca.pem", "/ca-key.pem", {}, 720)


def services(platform: str) -> list[Service]:
    where = PLATFORMS[platform]
    return [
        authority.cfssl_service(where),
        authority.responder_service(host(platform), where),
        join_gate.gate_service(where),
    ]


def definitions(platform: str) -> dict[str, str]:
    where = PLATFORMS[platform]
    return {
        name: file.content.decode()
        for service in services(platform)
        for name, file in where.service_files(service).items()
    }


@pytest.fixture(params=OTHERS)
def machine(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machine]:
    machine = Machine(tmp_path, request.param)
    try:
        monkeypatch.setitem(PLATFORMS, request.param, machine.platform)
        (machine.source / "ca.pem").write_bytes(CA)
        (machine.source / "ca-key.pem").write_bytes(key_pem(CA_KEY))
        yield machine
    finally:
        for remove in (join_gate.remove_command, authority.remove_command):
            machine.stub("userdel", "")
            machine.stub("groupdel", "")
            machine.stub("pw", '[ "$1" != groupshow ]')
            machine.run(remove(machine.host))
        machine.close()


def asked(machine: Machine) -> list[str]:
    log = machine.state / "asked"
    return log.read_text().splitlines() if log.exists() else []


def test_the_installers_run_repeat_and_remove(machine: Machine) -> None:
    installed = good(machine.install_authority())
    assert installed.stdout == CA.decode()
    good(machine.install_gate(*LISTENER))
    assert rows(machine) == [("OCSP signer", "good"), ("autojoin join gate", "good")]
    crontab = (machine.state / "crontab").read_text()
    programs = machine.platform.programs
    assert f"* * * * * {programs}/certificate-authority.sh refresh\n" in crontab
    assert f"17 3 * * * {programs}/join-gate.sh renew\n" in crontab
    changing = re.compile(r"svcadm (enable|disable)|import|onestart|onerestart|start|stop")
    before = [line for line in asked(machine) if changing.search(line)]
    for again in (machine.install_authority(), machine.install_gate(*LISTENER)):
        assert good(again).stderr == ""
    assert [line for line in asked(machine) if changing.search(line)] == before
    assert (machine.state / "crontab").read_text() == crontab
    (machine.state / "crontab").write_text("5 5 * * * mine\n" + crontab)
    machine.stub("userdel", "")
    machine.stub("groupdel", "")
    machine.stub("pw", '[ "$1" != groupshow ]')
    good(machine.run(join_gate.remove_command(machine.host)))
    good(machine.run(authority.remove_command(machine.host)))
    assert (machine.state / "crontab").read_text() == "5 5 * * * mine\n"
    for port in (8888, 8889, 8443):
        answer = machine.run(f"curl -sk --max-time 2 https://127.0.0.1:{port}/ || echo refused")
        assert "refused" in answer.stdout
    assert list((machine.root / "units").iterdir()) == []
    assert rows(machine) == [("OCSP signer", "good"), ("autojoin join gate", "good")]


@pytest.mark.parametrize("machine", ["openbsd", "netbsd"], indirect=True)
def test_what_ended_is_started_again_by_cron(machine: Machine) -> None:
    """rc.d does not supervise there."""
    good(machine.install_authority())
    info = "curl -sS -d '{}' http://127.0.0.1:8888/api/v1/cfssl/info"
    serving = f"^{EMULATOR}{machine.platform.cfssl} serve.*{machine.root}"
    found = machine.run(f"pgrep -f '{serving}'").stdout
    (pid,) = found.split()
    machine.run(f"kill -9 {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.05; done")
    assert machine.run(info).returncode != 0
    refreshed = good(machine.run(f"{machine.platform.programs}/certificate-authority.sh refresh"))
    assert "cfssl had ended; started again" in refreshed.stderr
    good(machine.run(f"{info} --retry 20 --retry-connrefused --retry-delay 0"))


# --- SMF ------------------------------------------------------------------------------------------


def valid(manifest: str) -> bool:
    words = ["xmllint", "--nonet", "--noout", "--dtdvalid", str(DTD), "-"]
    return subprocess.run(words, input=manifest.encode(), capture_output=True).returncode == 0


def test_manifests_are_valid() -> None:
    found = definitions("illumos")
    assert sorted(found) == [
        "autojoin-cfssl.xml",
        "autojoin-join-gate.xml",
        "autojoin-ocsp-responder.xml",
    ]
    for text in found.values():
        assert valid(text)
        # That the check can fail: the order of elements is fixed.
        swapped = text.replace("exec_method", "x").replace("property_group", "exec_method")
        assert not valid(swapped) and not valid(text.replace('type="service" version', "version"))


def test_manifests_take_any_text() -> None:
    odd = Service(
        name="odd",
        description='<a> & "b"',
        user="nobody",
        command=("/bin/echo", "a b", "<&>", "it's", 'say "hi"'),
        state="/var/o & dd",
    )
    text = smf.manifest(odd)
    assert valid(text)
    start = ElementTree.fromstring(text).find(".//exec_method[@name='start']")
    assert start is not None
    # startd gives it to sh, behind an exec.
    said = subprocess.run(
        ["sh", "-c", f"exec {start.get('exec')}"], capture_output=True, text=True
    ).stdout
    assert said == 'a b <&> it\'s say "hi"\n'


def test_a_manifest_keeps_to_its_own_process_and_privileges() -> None:
    for text in definitions("illumos").values():
        root = ElementTree.fromstring(text)
        methods = {item.get("name"): item.get("exec") for item in root.iter("exec_method")}
        assert set(methods) == {"start", "stop"} and methods["stop"] == ":kill"
        credential = root.find(".//method_credential")
        assert credential is not None and credential.get("user") not in (None, "root")
        assert str(credential.get("limit_privileges")).startswith("basic,!")
        needed = {item.get("value") for item in root.iter("service_fmri")}
        assert {"svc:/milestone/network:default", "svc:/system/filesystem/local:default"} <= needed
        startd = {item.get("name"): item.get("value") for item in root.iter("propval")}
        assert startd["duration"] == "child"


# --- rc.d -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", BSDS)
def test_rc_scripts_are_clean(platform: str, tmp_path: Path) -> None:
    found = definitions(platform)
    assert len(found) == 3
    for name, text in found.items():
        assert re.fullmatch("[a-z_]+", name), "rc.subr makes variables of the name"
        path = tmp_path / name
        path.write_text(text)
        # SC1090, SC2034: rc.subr is not here, and reads what is set for it; SC2154: it sets some.
        shell = ["-s", "ksh"] if platform == "openbsd" else ["-s", "sh"]
        words = ["shellcheck", *shell, "-e", "SC1090,SC1091,SC2034,SC2154", str(path)]
        checked = subprocess.run(words, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout
        assert subprocess.run(["dash", "-n", str(path)]).returncode == 0
        assert "pkill" not in text and "killall" not in text


def test_openbsd_finds_a_process_by_words_that_need_no_quoting() -> None:
    service = replace(services("openbsd")[0], command=("/bin/echo", "a b"))
    with pytest.raises(ValueError, match="words that need quoting"):
        PLATFORMS["openbsd"].service_files(service)


# --- users ----------------------------------------------------------------------------------------

USERS = {
    "linux": ["useradd --system --user-group --no-create-home --home-dir /nonexistent"
              " --shell /usr/sbin/nologin --comment a b ca"],
    "illumos": ["groupadd ca", "useradd -g ca -d /nonexistent -s /usr/bin/false -c a b ca"],
    "freebsd": ["pw groupshow ca", "pw groupadd ca",
                "pw useradd ca -g ca -d /nonexistent -s /usr/sbin/nologin -c a b"],
    "openbsd": ["useradd -g =uid -L daemon -d /nonexistent -s /sbin/nologin -c a b ca"],
    "netbsd": ["useradd -g =uid -d /nonexistent -s /sbin/nologin -c a b ca"],
}  # fmt: skip


@pytest.mark.parametrize("platform", USERS)
def test_users_have_neither_shell_nor_home(platform: str, tmp_path: Path) -> None:
    for name in ("useradd", "groupadd", "pw", "getent"):
        stub = tmp_path / name
        fails = "exit 1" if name == "getent" else '[ "$1" != groupshow ]'
        noted = "" if name == "getent" else f'echo "{name} $*"; '
        stub.write_text(f"#!/bin/sh\n{noted}{fails}\n")
        stub.chmod(0o755)
    script = f". {FILES}/platform-{platform}.sh; user_add ca 'a b'"
    if platform == "freebsd":
        script = script.replace("user_add", "exec 3>&1; user_add")
        (tmp_path / "pw").write_text('#!/bin/sh\necho "pw $*" >&3\n[ "$1" != groupshow ]\n')
    result = subprocess.run(
        ["dash", "-eu", "-c", script],
        capture_output=True,
        text=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )
    assert result.stdout.splitlines() == USERS[platform], result.stderr

"""A certificate authority's host in one folder: the real installers, without systemd.

Runs in a network namespace of its own, so that the fixed ports are free. `systemctl` is a small
stand-in that starts what the unit file says and remembers what it was asked.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from components import archive
from components.certificate_authority import installation as authority
from components.certificate_authority.authority_host import FILES, LINUX, AuthorityHost, Platform
from components.certificate_authority.platforms import PLATFORMS
from components.certificate_authority.platforms.rcd import Places
from components.join_gate import installation as join_gate
from tests.unit.components.certificate_authority.platform_tools import TOOLS

ADDRESS = "192.0.2.2"
PYTHON = "/usr/bin/python3"


def listener(key: Any = None, name: str = "autojoin join gate") -> tuple[str, str]:
    """A key and a certificate request, as the tls provider makes them."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    ).sign(key, hashes.SHA256())
    return key_pem(key).decode(), request.public_bytes(serialization.Encoding.PEM).decode()


def key_pem(key: Any, password: bytes | None = None) -> bytes:
    hidden = serialization.BestAvailableEncryption(password) if password else None
    data: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        hidden or serialization.NoEncryption(),
    )
    return data


SIGNER = listener(name="OCSP signer")

_SYSTEMCTL = """#!/bin/sh
# Runs ExecStart= of a unit; keeps process ids and a log in $STATE.
echo "$*" >>"$STATE/systemctl.log"
while [ "${1#-}" != "$1" ]; do shift; done
verb=$1
shift
while [ "${1-}" != "${1#-}" ]; do shift; done
unit=${1-}
pid=$(cat "$STATE/$unit.pid" 2>/dev/null || :)
alive() { [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; }
stop() {
    if alive; then kill "$pid"; while alive; do sleep 0.02; done; fi
    rm -f "$STATE/$unit.pid"
}
start() {
    case $unit in *.timer) return ;; esac
    command=$(sed -n 's/^ExecStart=//p' "$UNITS/$unit")
    setsid sh -c "exec $command" >>"$STATE/$unit.log" 2>&1 </dev/null &
    echo $! >"$STATE/$unit.pid"
}
case $verb in
start) alive || start ;;
restart) stop; start ;;
stop) stop ;;
disable) stop; rm -f "$STATE/$unit.enabled" ;;
enable) : >"$STATE/$unit.enabled" ;;
is-enabled) [ -e "$STATE/$unit.enabled" ] ;;
is-active) case $unit in *.timer) : ;; *) alive ;; esac ;;
*) : ;;
esac
"""


class Machine:
    """`run` gives a command to the host's shell as sshd would."""

    def __init__(self, folder: Path, platform: str = "linux") -> None:
        self.kind = platform
        self.root = folder
        self.state = folder / "state"
        self.source = folder / "existing"
        stubs = folder / "bin"
        for path in (self.state, self.source, stubs, folder / "units"):
            path.mkdir(parents=True)
        for name in ("systemctl", "journalctl"):
            stub = stubs / name
            stub.write_text(_SYSTEMCTL if name == "systemctl" else "#!/bin/sh\n")
            stub.chmod(0o755)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._files: dict[str, str] = {}
        self.environment = {
            "PATH": f"{stubs}:/usr/sbin:/usr/bin:/sbin:/bin",
            "STATE": str(self.state),
            "UNITS": str(folder / "units"),
            "DTD": str(Path(__file__).parent / "service_bundle.dtd"),
        }
        for name, text in TOOLS.get(platform, {}).items():
            (stubs / name).write_text(text)
            (stubs / name).chmod(0o755)
        if platform != "linux":
            self._adapt_script(stubs)
        # Holds the namespace as long as this machine lives: `cat` ends with its standard input.
        self._namespace = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._namespace.stdout is not None
        assert self._namespace.stdout.readline() == b"up\n", "needs root, for a network namespace"

    def _adapt_script(self, stubs: Path) -> None:
        """This machine has no group wheel, and its /etc is not the test's."""
        text = (FILES / f"platform-{self.kind}.sh").read_text()
        text = text.replace("=wheel", "=root").replace("=/etc/rc.conf.d", f"={self.root}/rc.conf.d")
        self.replace_file("platform.sh", text)

    @property
    def platform(self) -> Platform:
        cfssl = shutil.which("cfssl")
        assert cfssl, "cfssl is not on PATH; make tools puts it there"
        base = PLATFORMS[self.kind]
        if self.kind == "linux":
            base = LINUX
        packages = {
            command.replace(base.python, PYTHON): package
            for command, package in base.packages.items()
        }
        if (self.root / "bin" / "cfssl").exists():  # another one is its own
            cfssl = str(self.root / "bin" / "cfssl")
        if hasattr(base, "places"):
            stubs, state = self.root / "bin", str(self.state)
            places = Places(f"{stubs}/rc.subr", state, state, f"{stubs}/daemon")
            kind = type("Adapted", (type(base),), {"places": places})
            base = kind(**{field.name: getattr(base, field.name) for field in fields(base)})
        return replace(
            base,
            python=PYTHON,
            path=self.environment["PATH"],
            cfssl=cfssl,
            generated=str(self.root / "generated"),
            programs=str(self.root / "programs"),
            configuration=str(self.root / "etc"),
            authority_state=str(self.root / "var" / "cfssl"),
            gate_state=str(self.root / "var" / "join-gate"),
            services=str(self.root / "units"),
            authority_user="root",
            gate_user="root",
            packages=packages,
        )

    @property
    def host(self) -> AuthorityHost:
        return AuthorityHost(
            platform=self.kind,
            address=ADDRESS,
            source="existing",
            certificate=str(self.source / "ca.pem"),
            key=str(self.source / "ca-key.pem"),
            subject={},
            node_certificate_hours=48,
            cfssl=self.platform.cfssl,
        )

    def run(self, command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        words = ["nsenter", "--net", "--target", str(self._namespace.pid), "sh", "-c", command]
        return subprocess.run(
            words, input=stdin, env=self.environment, capture_output=True, text=True, timeout=60
        )

    def install_authority(self, **changes: object) -> subprocess.CompletedProcess[str]:
        host = replace(self.host, **changes)  # type: ignore[arg-type]
        return self.run(authority.install_command(host), self.authority_input(host))

    def authority_input(self, host: AuthorityHost) -> str:
        files = {
            **authority.files(host),
            "ocsp-key.pem": archive.text(SIGNER[0]),
            "ocsp-request.pem": archive.text(SIGNER[1]),
        }
        if not self._files:
            known = {"known-ca.pem": archive.text("CA\n")}
            assert archive.pack({**files, **known}) == authority.install_input(host, *SIGNER, "CA")
        for name, text in self._files.items():
            files[name] = archive.text(text, 0o755)
        return archive.pack(files)

    def choose_cfssl(self, choice: str) -> subprocess.CompletedProcess[str]:
        host = replace(self.host, cfssl=choice)
        return self.run(authority.choose_command(host), authority.take_input(host))

    def take_cfssl(self, program: bytes) -> subprocess.CompletedProcess[str]:
        host = replace(self.host, cfssl="auto")
        return self.run(authority.take_command(host), authority.take_input(host, program))

    def replace_file(self, name: str, text: str) -> None:
        """From now on, install `text` for one of the files."""
        self._files[name] = text

    def stub(self, name: str, body: str) -> None:
        """A program that comes before the real one on PATH."""
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def start(self, words: list[str]) -> None:
        """Run a program on this host until it is closed; returns once it has printed a line."""
        process = subprocess.Popen(
            ["nsenter", "--net", "--target", str(self._namespace.pid), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._processes.append(process)
        assert process.stdout is not None and process.stdout.readline()

    @contextmanager
    def running(self, words: list[str]) -> Iterator[None]:
        """A program on this host, from its first line of output to the end of the block."""
        self.start(words)
        try:
            yield
        finally:
            self._processes.pop().communicate(b"\n", timeout=10)

    @property
    def process(self) -> int:
        """Whose network namespace is this host's."""
        return self._namespace.pid

    def snapshot(self) -> dict[str, bytes]:
        """Every file of the host, but for what the running services write by themselves."""
        own = {"bin", "state"}
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file()
            and path.relative_to(self.root).parts[0] not in own
            and not path.name.endswith(("-wal", "-shm", "ca.crl"))
        }

    def install_gate(self, key: str, request: str) -> subprocess.CompletedProcess[str]:
        files = {
            **join_gate.files(self.host),
            "tls-key.pem": archive.text(key),
            "request.pem": archive.text(request),
        }
        files |= {
            name: archive.text(text, 0o755) for name, text in self._files.items() if name in files
        }
        return self.run(join_gate.install_command(self.host), archive.pack(files))

    def asked(self, verb: str) -> list[str]:
        """What systemctl was asked to do with this verb, since the last `forget`."""
        log = self.state / "systemctl.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if verb in line.split()]

    def restarted(self) -> list[str]:
        """The services (not the timers) that were restarted since the last `forget`."""
        units = [line.split()[-1] for line in self.asked("restart")]
        return [unit.removesuffix(".service") for unit in units if unit.endswith(".service")]

    def forget(self) -> None:
        (self.state / "systemctl.log").unlink(missing_ok=True)

    def etc(self, name: str) -> Path:
        return self.root / "etc" / name

    def close(self) -> None:
        for process in self._processes:
            process.communicate(b"\n", timeout=10)
        for path in self.state.glob("*.pid"):
            try:
                os.kill(int(path.read_text()), 15)
            except (ProcessLookupError, ValueError):
                continue
        time.sleep(0.05)
        self._namespace.terminate()
        self._namespace.wait(10)

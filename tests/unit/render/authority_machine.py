"""A certificate authority's host in one folder: the real installers, without systemd.

Runs in a network namespace of its own, so that the fixed ports are free. `systemctl` is a small
stand-in that starts what the unit file says and remembers what it was asked.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from render import certificate_authority as authority
from render import join_gate
from render.authority_host import LINUX, AuthorityHost, Platform

ADDRESS = "192.0.2.2"

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
disable) stop; rm -f "$STATE/$unit.enabled" ;;
enable) : >"$STATE/$unit.enabled" ;;
is-enabled) [ -e "$STATE/$unit.enabled" ] ;;
is-active) case $unit in *.timer) : ;; *) alive ;; esac ;;
*) : ;;
esac
"""


class Machine:
    """`run` gives a command to the host's shell as sshd would."""

    def __init__(self, folder: Path) -> None:
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
        # The gate's commands look in /etc; this host's /etc is elsewhere.
        self.gate = stubs / "gate"
        self.gate.write_text(
            f"#!/bin/sh\n[ -e {folder}/programs/gate ] || exit 0\n"
            f'exec {folder}/programs/gate --settings {folder}/etc/join-gate/gate.json "$@"\n'
        )
        self.gate.chmod(0o755)
        self.environment = {
            "PATH": f"{stubs}:/usr/sbin:/usr/bin:/sbin:/bin",
            "STATE": str(self.state),
            "UNITS": str(folder / "units"),
        }
        # Holds the namespace as long as this machine lives: `cat` ends with its standard input.
        self._namespace = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._namespace.stdout is not None
        assert self._namespace.stdout.readline() == b"up\n", "needs root, for a network namespace"

    @property
    def platform(self) -> Platform:
        cfssl = shutil.which("cfssl")
        assert cfssl, "cfssl is not on PATH; make tools puts it there"
        packages = dict(LINUX.packages)
        packages[cfssl] = packages.pop(LINUX.cfssl)
        return replace(
            LINUX,
            cfssl=cfssl,
            programs=str(self.root / "programs"),
            configuration=str(self.root / "etc"),
            authority_state=str(self.root / "var" / "cfssl"),
            gate_state=str(self.root / "var" / "join-gate"),
            units=str(self.root / "units"),
            authority_user="root",
            gate_user="root",
            packages=packages,
        )

    @property
    def host(self) -> AuthorityHost:
        return AuthorityHost(
            platform="linux",
            address=ADDRESS,
            source="existing",
            certificate=str(self.source / "ca.pem"),
            key=str(self.source / "ca-key.pem"),
            subject={},
            node_certificate_hours=48,
        )

    def run(self, command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        words = ["nsenter", "--net", "--target", str(self._namespace.pid), "sh", "-c", command]
        return subprocess.run(
            words, input=stdin, env=self.environment, capture_output=True, text=True, timeout=60
        )

    def install_authority(self, **changes: object) -> subprocess.CompletedProcess[str]:
        host = replace(self.host, **changes)  # type: ignore[arg-type]
        return self.run(authority.install_command(host), authority.install_input(host))

    def install_gate(self, key: str, request: str) -> subprocess.CompletedProcess[str]:
        return self.run(
            join_gate.install_command(self.host), join_gate.install_input(self.host, key, request)
        )

    def asked(self, verb: str) -> list[str]:
        """What systemctl was asked to do with this verb, since the last `forget`."""
        log = self.state / "systemctl.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if verb in line.split()]

    def forget(self) -> None:
        (self.state / "systemctl.log").unlink(missing_ok=True)

    def etc(self, name: str) -> Path:
        return self.root / "etc" / name

    def close(self) -> None:
        for path in self.state.glob("*.pid"):
            try:
                os.kill(int(path.read_text()), 15)
            except (ProcessLookupError, ValueError):
                continue
        time.sleep(0.05)
        self._namespace.terminate()
        self._namespace.wait(10)

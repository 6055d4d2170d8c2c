"""One sshd on loopback that plays every host: it answers at once and does nothing.

What the engine's rows compare is the engine and the program; both sides run the same commands
through the same client and server.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from bench.measure import timed
from lab import stack
from tests.preview import deployed
from tests.unit.tools.plugins.kubernetes_server import Authority
from tests.unit.tools.plugins.ssh_server import SshServer
from tools.plugins import package

_JOINED = json.dumps({"node": "bench", "readySeconds": 1.0, "phases": {}})
_REVOKED = json.dumps({"revoked": []})
_ANSWER = """\
#!/bin/sh
cat >/dev/null
case $SSH_ORIGINAL_COMMAND in
*certificate-authority*install*) cat {authority} ;;
*' apply '*) echo {joined} ;;
*' revoked'*) echo {revoked} ;;
esac
"""


def start(folder: Path) -> SshServer:
    """The server, running. It takes wide parallel dials, as both sides make them."""
    folder.mkdir()
    Authority(folder)
    script = folder / "answer"
    answers = {"authority": str(folder / "ca.pem"), "joined": _JOINED, "revoked": _REVOKED}
    quoted = {name: shlex.quote(value) for name, value in answers.items()}
    script.write_text(_ANSWER.format(**quoted))
    script.chmod(0o755)
    server = SshServer(folder)
    with (folder / "sshd_config").open("a") as settings:
        settings.write(f"MaxStartups 1000\nForceCommand {script}\n")
    server.start()
    return server


def described(server: SshServer) -> dict[str, Any]:
    """The server as a host of the configuration."""
    return {
        "address": "127.0.0.1",
        "port": server.port,
        "user": server.connection["user"],
        "hostKey": server.host_key,
        "privateKeyFile": str(server.folder / "client_key"),
    }


def answering_plugins(folder: Path) -> Path:
    """A PULUMI_HOME whose command plugin answers by itself, as every host here would.

    A thousand workers are two thousand logins, 0.4 s of processor time each, which would be all
    that is measured.
    """
    home = folder / "pulumi-home"
    answers = {
        "ca-pair": deployed.certificate(),
        "admission-revoked": _REVOKED,
        "-machine": _JOINED,
    }
    for name, version, path in package.build(folder / "plugins", sys.executable):
        if name == "command":
            (path / "start.py").write_text(deployed.start(name, version, answers))
        command = ["pulumi", "plugin", "install", "resource", name, version, "--file", str(path)]
        environment = stack.engine_environment() | {"PULUMI_HOME": str(home)}
        timed(command, folder=folder, environment=environment)
    return home

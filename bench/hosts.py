"""One sshd on loopback that plays every host: it answers at once and does nothing.

What the engine's rows compare is the engine and the program; both sides run the same commands
through the same client and server.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from tests.preview import deployed
from tests.unit.tools.plugins.ssh_server import SshServer
from tools.pins import Layout
from tools.plugins import install as plugins
from tools.plugins import package


def start(folder: Path) -> SshServer:
    """The server, running. It takes wide parallel dials, as both sides make them."""
    folder.mkdir()
    server = SshServer(folder)
    server.answers(deployed.answers())
    with (folder / "sshd_config").open("a") as settings:
        settings.write("MaxStartups 1000\n")
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


# The stand-in, but for what would reach a host.
_ANSWERING = """\
from fnmatch import fnmatch

from {package}.command import KINDS, stop
from {package}.plugin import main
from {package}.process import Outcome

ANSWERS = {answers}

def run(request, inputs, command, *sinks):
    said = next((text for end, text in ANSWERS.items() if fnmatch(command, end)), "")
    return Outcome(0, said, "", said)

KINDS["command:remote:Command"].run = run
main("{name}", "{version}", KINDS, stop)
"""


def answering_plugins(folder: Path) -> Path:
    """A PULUMI_HOME whose command plugin answers by itself, as every host here would.

    A thousand workers are two thousand logins, 0.4 s of processor time each, which would be all
    that is measured.
    """
    home = folder / "pulumi-home"
    shutil.copytree(plugins.home(Layout()), home)
    said = repr(deployed.answers()).replace("{", "{{").replace("}", "}}")
    main = _ANSWERING.replace("{answers}", said)
    file = package.pack(folder, "command", sys.executable, main)
    for installed in home.glob("plugins/resource-command-*/pulumi-resource-command"):
        shutil.copy(file, installed)
    return home

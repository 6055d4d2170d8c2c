"""docs/first-lab.md as somebody types it, in a lab that is somebody's: its commands, and what that
person chooses. Where the lab is not a home, the choice is not what the reader's would be:

- the stack file gets, by the editor, what the lab has instead of the Internet: mirrors of images,
  the chart, a resolver;
- Pulumi's plugins lie in ~/.pulumi/plugins already. Where they are stand-ins, they are told that
  this stack is a lab's (docs/stand-ins.md);
- Pulumi asks neither for the passphrase nor whether to go on: a variable answers both;
- what make installs is there already, so its minutes of building are not walked.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shutil
import subprocess
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.e2e.conftest import Lab
from tools.pins import CHECKOUT, Layout
from tools.plugins import LAB_STACK, lab_stack
from tools.plugins import install as plugins

DOCUMENT = CHECKOUT / "docs" / "first-lab.md"
STACK = "home"
ROUTER = "router"
# Right after `pulumi up` a session may be on its way; the document says to ask again.
AGAIN = {f"make status STACK={STACK}": 120.0}
ANSWER_SECONDS = 60
SHELL = """\
. {state}
{command}
status=$?
export -p >{state}
exit $status
"""


def commands() -> list[str]:
    """Every line of the document's code blocks, in their order."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert {language for language, _ in blocks} == {"sh"}
    return [line for _, block in blocks for line in block.splitlines() if line]


def answers(lab: Lab) -> dict[str, list[str]]:
    """Whatever `make new` may ask, and what is said; empty where its proposal is right."""
    cluster, bgp = lab.config["autojoin:cluster"], lab.config["autojoin:bgp"]
    address, _ = lab.config["autojoin:workers"]["worker-1"]["address"]
    hypervisor = lab.config["autojoin:provisioning"]["hypervisor"]["address"]
    worker = f"first nspawn {address} bridge=br0 image={image(lab)}"
    return {
        "Name of the cluster": ["mine"],
        "Kubeconfig of an admin": [""],
        "URL of the API server": [""],
        "Version of Kubernetes": [""],
        "Networks for pods": [cluster["podCidrs"][0]],
        "Networks of Services": [""],
        "Address of the CA host": [lab.config["autojoin:certificateAuthority"]["host"]["address"]],
        "Its public host key": [""],
        "User to log in on hosts as": [""],
        "Private SSH key": [""],
        "What the CA host runs": [""],
        "existing: certificate and key are on the host": [""],
        "Path of the CA's certificate": [""],
        "Path of the CA's key": [""],
        "Networks of the nodes": [""],
        "Default route of the nodes": [cluster["gateway"][0]],
        "Resolvers of the nodes": [hypervisor],
        "Address of the BGP router": [hypervisor],
        "Autonomous system of the nodes": [str(bgp["localAsn"])],
        "That of the router": [str(bgp["peers"][0]["asn"])],
        "Networks for load balancers": [bgp["loadBalancerPools"][0]["cidrs"][0]],
        "host": [f"hypervisor {hypervisor}", ""],
        "worker": [worker, ""],
    }


def image(lab: Lab) -> str:
    return str(lab.config["autojoin:workers"]["worker-1"]["image"])


def edits(lab: Lab) -> str:
    """What the editor appends to the stack file."""
    sections = ("autojoin:registries", "autojoin:dns", "autojoin:cilium")
    text = yaml.safe_dump({name: lab.config[name] for name in sections}, sort_keys=False)
    return textwrap.indent(text, "  ")


@dataclass
class Person:
    """A shell that is open from the first command to the last, in the checkout."""

    checkout: Path
    environment: dict[str, str]

    @property
    def home(self) -> Path:
        return Path(self.environment["HOME"])

    def type(self, command: str, answers: dict[str, list[str]] | None = None) -> str:
        """What the command says; AssertionError where it fails."""
        deadline = time.monotonic() + AGAIN.get(command, 0)
        while True:
            status, said = self._once(command, answers or {})
            if status == 0:
                return said
            assert time.monotonic() < deadline, f"{DOCUMENT.name}: `{command}`: {status}\n{said}"
            time.sleep(1)

    def _once(self, command: str, answers: dict[str, list[str]]) -> tuple[int, str]:
        state = self.home / ".shell"
        state.touch()
        parent, child = pty.openpty() if answers else os.pipe()
        process = subprocess.Popen(
            ["sh", "-c", SHELL.format(state=state, command=command)],
            cwd=self.checkout,
            env=self.environment,
            stdin=child if answers else subprocess.DEVNULL,
            stdout=child,
            stderr=child,
        )
        os.close(child)
        try:
            said = conversation(parent, answers)
            return process.wait(), said
        finally:
            os.close(parent)


def conversation(terminal: int, answers: dict[str, list[str]]) -> str:
    """All that is said until the end, each question answered; each answer is for one of them."""
    left = {question: list(given) for question, given in answers.items()}
    said = ""
    while True:
        ready, _, _ = select.select([terminal], [], [], ANSWER_SECONDS if answers else None)
        assert ready, f"it waits for an answer that nobody has:\n{said}"
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # how a terminal ends
            piece = b""
        if not piece:
            assert not any(left.values()), f"never asked for: {left}\n{said}"
            return said
        said += piece.decode(errors="replace")
        line = said.rpartition("\n")[2]
        asked = next((it for it in left if line.startswith(it) and line.endswith(": ")), None)
        if asked:
            assert left[asked], f"asked once more:\n{said}"
            os.write(terminal, f"{left[asked].pop(0)}\n".encode())


@contextlib.contextmanager
def somebody(lab: Lab, home: Path) -> Iterator[Person]:
    """A person with a home of their own: a kubeconfig, a key and an agent that has it."""
    for folder in (".kube", ".ssh", ".pulumi"):
        (home / folder).mkdir(mode=0o700)
    shutil.copy(lab.checkout / ".lab/kubeconfig", home / ".kube/config")
    shutil.copy(lab.checkout / ".lab/pki/ssh-client", home / ".ssh/id_ed25519")
    (home / ".pulumi/plugins").symlink_to(plugins.home(Layout()) / "plugins")
    (home / "edits").write_text(edits(lab))
    (home / "editor").write_text(f'cat {home}/edits >>"$1"\n')
    own = {name: value for name, value in os.environ.items() if name in ("LANG", "TERM", "USER")}
    socket = home / ".ssh/agent"
    environment = {
        **own,
        "HOME": str(home),
        # Its programs look for a home where /etc/passwd has it.
        "PULUMI_HOME": str(home / ".pulumi"),
        "PATH": ":".join(it for it in os.environ["PATH"].split(":") if "/autojoin/" not in it),
        "XDG_CACHE_HOME": str(Layout().cache.parent),
        "EDITOR": f"sh {home}/editor",
        "SSH_AUTH_SOCK": str(socket),
        "PULUMI_CONFIG_PASSPHRASE": "a passphrase of somebody's",
        "PULUMI_SKIP_CONFIRMATIONS": "true",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        LAB_STACK: lab_stack(f"file://{home}/pulumi", STACK),
    }
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    try:
        while not socket.exists():
            assert agent.poll() is None
            time.sleep(0.05)
        add = ["ssh-add", "-q", str(home / ".ssh/id_ed25519")]
        subprocess.run(add, env={**os.environ, "SSH_AUTH_SOCK": str(socket)}, check=True)
        yield Person(lab.checkout, environment)
    finally:
        agent.terminate()
        agent.wait()

"""A worker that is a systemd-nspawn machine on a Linux host: the lab's type."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pulumi

from components import remote
from components.workers.base import Worker
from config.models import Host
from render import nspawn as render
from render.seed import Seed


class MachineHost(pulumi.ComponentResource):
    """A Linux host on which nspawn machines run: the script and unit that start them."""

    def __init__(self, name: str, host: Host, opts: pulumi.ResourceOptions | None = None):
        super().__init__("autojoin:workers:MachineHost", name, None, opts)
        self.ready = remote.run(
            f"{name}-machines",
            host,
            create=render.install_command(),
            stdin=render.install_input(),
            parent=self,
        )
        self.register_outputs({})


class Nspawn(Worker):
    """Started by the graph from its seed alone; `up` follows the join until the node is Ready."""

    hardware = "nspawn"
    interface = "host0"
    restarts_by_itself = True
    # A machine shares its host's cgroups and swap: there is nothing for the kubelet to enforce.
    kubelet_overrides: ClassVar[dict[str, Any]] = {
        "cgroupsPerQOS": False,
        "enforceNodeAllocatable": [],
    }

    def deliver(self, data: pulumi.Output[str], needs: list[pulumi.Resource]) -> pulumi.Input[Any]:
        host = self.lab.provisioner(self.settings)
        assert host is not None, "config/checks.py lets no nspawn worker pass without one"
        machine = remote.run(
            f"{self.name}-machine",
            host,
            create=render.apply_command(self.name, self.settings.join_timeout),
            stdin=data,
            delete=render.remove_command(self.name),
            parent=self,
            depends_on=needs,
        )
        return machine.stdout.apply(lambda text: joined(text))

    def delivery_input(self, seed: Seed, authority_pem: str, status_token: str) -> str:
        return render.apply_input(
            self.name,
            seed,
            image=self.settings.image or "",
            bridge=self.settings.bridge,
            gate_url=self.gate.url,
            authority_pem=authority_pem,
            status_token=status_token,
        )


def joined(output: str) -> dict[str, Any]:
    """The summary with which `machine await` ends its output: seconds to Ready, phase by phase."""
    lines = output.strip().splitlines()
    summary = json.loads(lines[-1]) if lines else {}
    return {"readySeconds": summary.get("readySeconds"), "phases": summary.get("phases")}

"""The lab's router: FRR in the hypervisor, before the control plane.

What the nodes announce to it lies in the kernel's table there, which is how kube-apiserver reaches
ClusterIPs, and this machine the load balancer addresses. It gets the very lines that `make render`
writes for a person's router.
"""

from __future__ import annotations

import json
from typing import Any

from lab.place import Place
from lab.remote import remote

DAEMONS = """\
bgpd=yes
vtysh_enable=yes
zebra_options="-A 127.0.0.1"
bgpd_options="-A 127.0.0.1"
"""
# Its unit allows three starts in three minutes; each edit of a lab's workers is one.
EDITED = """\
[Unit]
StartLimitIntervalSec=0
"""
# A router that speaks already keeps its sessions.
CONFIGURE = """\
set -eu
cat >/etc/frr/frr.conf.new
chown frr:frr /etc/frr/frr.conf.new
if cmp -s /etc/frr/frr.conf.new /etc/frr/frr.conf && systemctl is-active --quiet frr; then
    rm /etc/frr/frr.conf.new
else
    mv /etc/frr/frr.conf.new /etc/frr/frr.conf
    systemctl restart frr
fi
"""


def configure(place: Place, configuration: str) -> None:
    """Let the router run with `configuration`."""
    remote(place, CONFIGURE, stdin=configuration, what="configuring the router")


def ask(place: Place, command: str) -> Any:
    """What FRR's shell answers to `show … json`."""
    return json.loads(remote(place, f"vtysh -c '{command}'", what=f"`{command}` of the router"))

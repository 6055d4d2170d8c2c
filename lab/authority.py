"""The lab's CA host: a machine as a person has one, with an existing CA and a pinned host key.

It is started from a seed by the same machine script that the graph uses for workers.
"""

from __future__ import annotations

import yaml

from components.archive import File, text
from components.machine_host.recipe import recipe
from lab import hypervisor, pki
from lab.facts import BRIDGE, IMAGE
from lab.place import Place
from lab.remote import remote
from lab.waiting import wait_for

NAME = "ca"
FOLDER = "etc/kubernetes-ca"
MACHINE = "/usr/local/lib/autojoin/machine"
READY_SECONDS = 90.0


def user_data(place: Place) -> str:
    keys = pki.folder(place)
    document = {
        "hostname": NAME,
        "disable_root": False,
        "users": [
            {
                "name": "root",
                "lock_passwd": False,
                "ssh_authorized_keys": [pki.ssh_public_key(place, "client")],
            }
        ],
        "ssh_keys": {
            "ed25519_private": (keys / "ssh-authority-host").read_text(),
            "ed25519_public": pki.ssh_public_key(place, "authority-host"),
        },
    }
    return "#cloud-config\n" + yaml.safe_dump(document, sort_keys=False)


def network_config(place: Place) -> str:
    interface = {"match": {"name": "host0"}, "addresses": [f"{place.authority_address}/24"]}
    return yaml.safe_dump({"version": 2, "ethernets": {"host0": interface}}, sort_keys=False)


def seed(place: Place) -> str:
    """The machine's whole input, for `machine apply`. Holds the CA's key."""
    keys = pki.folder(place)
    meta_data = {"instance-id": f"{NAME}-{place.identifier}", "local-hostname": NAME}
    files = {
        "seed/user-data": text(user_data(place)),
        "seed/meta-data": text(yaml.safe_dump(meta_data)),
        "seed/network-config": text(network_config(place)),
        "seed/vendor-data": File(b""),
        "machine.env": text(f"IMAGE={IMAGE}\nBRIDGE={BRIDGE}\n"),
        f"files/{FOLDER}/ca.pem": File((keys / "ca.pem").read_bytes(), 0o644),
        f"files/{FOLDER}/ca-key.pem": File((keys / "ca-key.pem").read_bytes()),
    }
    return recipe(files)


def start(place: Place) -> None:
    """Make the CA host run from its seed; one that does already is left alone."""
    command = f"{MACHINE} install && exec {MACHINE} apply {NAME}"
    remote(place, command, stdin=seed(place), what="starting the CA host")


def await_ready(place: Place) -> None:
    """Return once the CA host answers SSH with its pinned key."""
    address = str(place.authority_address)
    failure = f"the CA host does not answer SSH at {address}"
    console = f"its console: {place.state}/machines/{NAME}/console.log"
    wait_for(lambda: hypervisor.answers_ssh(address), READY_SECONDS, failure, lambda: console)
    remote(place, "true", host=address, key="authority-host", what="logging in to the CA host")

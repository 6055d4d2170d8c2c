"""The stack file and the engine's environment of the embedded lab.

Pulumi.dev.yaml depends on the machine (a subnet and host keys of this checkout's own), so it is
written here and ignored by git; what a person edits in it afterwards stays.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from lab.facts import LabFacts, describe
from lab.facts import prepare as prepare_lab
from lab.place import Place
from tools import install as tools
from tools.errors import LabError
from tools.pins import CHECKOUT, CILIUM_VERSION, KUBERNETES_VERSION, Layout
from tools.plugins import LAB_STACK
from tools.plugins import install as plugins
from tools.plugins import lab_stack as named

STACK = "dev"
FILE = CHECKOUT / f"Pulumi.{STACK}.yaml"
WORKERS = 3
FIRST_WORKER = 11
_HEADER = """\
# The embedded lab of this checkout: written by `make`, yours to edit, ignored by git.
# Addresses, host keys and paths are those of the lab; `make up` keeps them true.
"""


def environment(place: Place) -> dict[str, str]:
    """What plain `pulumi` and `kubectl` need to work on the lab's stack."""
    return {
        **engine_environment(),
        **lab_stack(place.state / "pulumi", STACK),
        "PULUMI_CONFIG_PASSPHRASE_FILE": str(place.state / "passphrase"),
        "KUBECONFIG": str(describe(place).kubeconfig),
    }


def lab_stack(backend: Path, stack: str) -> dict[str, str]:
    """What makes a stack in the folder `backend` a lab's, one that stand-ins work for."""
    url = f"file://{backend}"
    return {
        "PULUMI_BACKEND_URL": url,
        "PULUMI_STACK": stack,
        LAB_STACK: named(url, stack),
    }


def engine_environment() -> dict[str, str]:
    """What the pinned engine needs, whatever the stack."""
    layout = Layout()
    return {
        "PATH": tools.search_path(layout),
        "PULUMI_HOME": str(plugins.home(layout)),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
    }


def exports(values: dict[str, str]) -> str:
    """Lines for a shell to `eval`."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in values.items())


def exists(place: Place) -> bool:
    """Whether the stack is in the lab's backend."""
    return (place.state / "pulumi/.pulumi/stacks/autojoin" / f"{STACK}.json").exists()


def prepare(place: Place) -> None:
    """The stack file true, a passphrase, the chart, and the stack in the lab's own backend."""
    prepare_lab(place)
    copy_chart(place)
    fresh = not (place.state / "passphrase").exists()
    if fresh:
        make_passphrase(place.state / "passphrase")
    write_file(place, keep_salt=not fresh)
    if exists(place):
        return
    (place.state / "pulumi").mkdir(mode=0o700, exist_ok=True)
    pulumi = ["pulumi", "stack", "init", STACK, "--non-interactive"]
    answer = subprocess.run(
        pulumi,
        cwd=CHECKOUT,
        env={**os.environ, **environment(place)},
        capture_output=True,
        text=True,
    )
    if answer.returncode:
        raise LabError(f"`{' '.join(pulumi)}` failed: {answer.stderr.strip()}")
    remember(place)


def chart(place: Place) -> Path:
    """The chart's path in the lab: one that a newer pin does not change."""
    return place.state / "chart" / "cilium"


def copy_chart(place: Place) -> None:
    source = Layout().chart
    if source.exists() and not chart(place).exists():
        shutil.copytree(source, chart(place))


def make_passphrase(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(32) + "\n")


# --- the file -------------------------------------------------------------------------------


def write_file(place: Place, *, keep_salt: bool = True) -> None:
    """Make the stack file, or bring what the lab decides in it up to date."""
    facts = describe(place)
    if not FILE.exists():
        save({"config": lab_config(facts, chart(place))})
        return
    data = load()
    before = yaml.safe_dump(data)
    if not keep_salt:
        data.pop("encryptionsalt", None)
    update(data.setdefault("config", {}), facts, lab_config(facts, chart(place)))
    if yaml.safe_dump(data) != before:
        save(data)


def load() -> dict[str, Any]:
    try:
        data = yaml.safe_load(FILE.read_text())
    except yaml.YAMLError as error:
        raise LabError(f"{FILE} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict) or not isinstance(data.get("config", {}), dict):
        raise LabError(f"{FILE} has no `config:` mapping; mend it, or remove it to have it anew")
    return data


def save(data: dict[str, Any]) -> None:
    temporary = FILE.with_suffix(".new")
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)
    temporary.write_text(f"{_HEADER}{text}")
    temporary.replace(FILE)


def lab_config(facts: LabFacts, chart: Path) -> dict[str, Any]:
    """The whole lab, every key that differs from its default."""
    workers = {
        f"worker-{number}": {
            "hardware": "nspawn",
            "address": str(facts.subnet[FIRST_WORKER + number - 1]),
            "generation": 1,
            "image": facts.worker_image,
            "bridge": facts.bridge,
        }
        for number in range(1, WORKERS + 1)
    }
    return {
        "autojoin:cluster": {
            "name": "dev",
            "apiServer": facts.api_server,
            "kubeconfig": str(facts.kubeconfig),
            "kubernetesVersion": KUBERNETES_VERSION,
            "podCidrs": ["10.20.0.0/16"],
            "serviceCidrs": ["10.30.0.0/16"],
            "nodeCidrs": [str(facts.subnet)],
        },
        "autojoin:certificateAuthority": {
            "host": host(facts.ca_address, facts.ca_host_key, facts),
            "platform": "linux",
            "source": "existing",
            "certificate": "/etc/kubernetes-ca/ca.pem",
            "key": "/etc/kubernetes-ca/ca-key.pem",
        },
        "autojoin:provisioning": {
            "hypervisor": host(facts.hypervisor_address, facts.hypervisor_host_key, facts)
        },
        "autojoin:cilium": {"version": CILIUM_VERSION, "chart": str(chart)},
        "autojoin:bgp": {
            "localAsn": 65010,
            "peers": [{"name": "router", "address": str(facts.subnet[1]), "asn": 65001}],
            "communities": ["65000:99"],
            "advertise": {
                "podCidrs": True,
                "services": ["ClusterIP", "ExternalIP", "LoadBalancerIP"],
            },
            "loadBalancerPools": [{"name": "ippool", "cidrs": ["192.168.50.0/24"]}],
        },
        "autojoin:workers": workers,
    }


def host(address: object, host_key: str, facts: LabFacts) -> dict[str, Any]:
    return {
        "address": str(address),
        "user": "root",
        "hostKey": host_key,
        "privateKeyFile": str(facts.private_key_file),
    }


def update(config: dict[str, Any], facts: LabFacts, wanted: dict[str, Any]) -> None:
    """Put the lab's own facts into an edited `config`; what else stands there stays.

    After `make down` the lab may come back on another subnet with other keys: addresses of the
    old one keep their last octet.
    """
    authority = section(config, "certificateAuthority")
    host = mapping(authority, "host", "autojoin:certificateAuthority.host")
    before = prefix(host.get("address", facts.ca_address))
    if before != prefix(facts.ca_address):
        move(config, before, prefix(facts.ca_address))
    cluster = section(config, "cluster")
    for key in ("apiServer", "kubeconfig"):
        cluster[key] = wanted["autojoin:cluster"][key]
    host.update(wanted["autojoin:certificateAuthority"]["host"])
    hypervisor = mapping(section(config, "provisioning"), "hypervisor", "autojoin:provisioning")
    hypervisor.update(wanted["autojoin:provisioning"]["hypervisor"])


def prefix(address: object) -> str:
    """The first three octets."""
    return str(address).rpartition(".")[0]


def section(config: dict[str, Any], name: str) -> dict[str, Any]:
    return mapping(config, f"autojoin:{name}", f"autojoin:{name}")


def mapping(parent: dict[str, Any], key: str, place: str) -> dict[str, Any]:
    found = parent.setdefault(key, {})
    if not isinstance(found, dict):
        raise LabError(f"{FILE}: {place} is no mapping; mend it, or remove the file")
    return found


def move(config: dict[str, Any], old: str, new: str) -> None:
    """Rewrite the node network, and workers' and peers' addresses, from prefix `old` to `new`."""
    cluster = section(config, "cluster")
    moved = [f"{new}.0/24" if it == f"{old}.0/24" else it for it in cluster.get("nodeCidrs", [])]
    cluster["nodeCidrs"] = moved
    holders = list(section(config, "workers").values()) if "autojoin:workers" in config else []
    holders += section(config, "bgp").get("peers", []) if "autojoin:bgp" in config else []
    for holder in (holder for holder in holders if isinstance(holder, dict)):
        address = holder.get("address")
        if prefix(address) == old:
            holder["address"] = f"{new}.{str(address).rpartition('.')[2]}"


# --- after `make down` ----------------------------------------------------------------------


def remember(place: Place) -> None:
    """Note how the file looks as written here, to tell later whether a person edited it."""
    digest = hashlib.sha256(FILE.read_bytes()).hexdigest()
    (place.state / "stack-file.sha256").write_text(digest + "\n")


def forget(place: Place) -> None:
    """Remove the stack file at the end of the lab, unless a person edited it."""
    note = place.state / "stack-file.sha256"
    if not FILE.exists() or not note.exists():
        return
    if hashlib.sha256(FILE.read_bytes()).hexdigest() == note.read_text().strip():
        FILE.unlink()
    else:
        print(f"autojoin: {FILE.name} was edited and is kept")

"""cloud-init's seed of a node: everything a machine needs to become that node by itself."""

from __future__ import annotations

import ipaddress
import shlex
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography import x509

from components.workers import kubelet, registries, sources
from components.workers.seed import Cluster, Node, Seed
from components.workers.yaml_text import to_yaml

__all__ = ["Cluster", "Node", "Seed", "seed"]

JOIN_PROGRAM = "/usr/local/lib/autojoin/join"
JOIN_ENVIRONMENT = "/etc/autojoin/join.env"
JOIN_KEY = "/etc/autojoin/join-key"
JOIN_UNIT = "autojoin-join.service"
RENEW_UNIT = "autojoin-renew"
# What the program says is kept; that it began and ended, every minute, is not.
RENEW_SERVICE = f"""\
[Unit]
Description=Renew this node's certificate at the join gate, where due
After=network.target
ConditionPathExists=!{JOIN_KEY}

[Service]
Type=oneshot
ExecStart={JOIN_PROGRAM} renew
TimeoutStartSec=300
SyslogLevel=notice
LogLevelMax=notice
"""
RENEW_TIMER = """\
[Unit]
Description=Look every minute whether this node's certificate is to be renewed

[Timer]
OnActiveSec=10
OnUnitInactiveSec=60
AccuracySec=10

[Install]
WantedBy=multi-user.target
"""
INSTALL_PROGRAM = "/usr/local/lib/autojoin/install-packages"
INSTALL_ENVIRONMENT = "/etc/autojoin/install-packages.env"
CONTAINERD = "/var/lib/containerd"
STORAGE_LABEL = "containers"
PACKAGES_KEYRING = "/etc/apt/keyrings/kubernetes.asc"
MODULES_FILE = "/etc/modules-load.d/autojoin.conf"
SYSCTL_FILE = "/etc/sysctl.d/90-autojoin.conf"
KERNEL_MODULES = ("overlay", "br_netfilter")
SYSCTLS = {
    "net.bridge.bridge-nf-call-ip6tables": "1",
    "net.bridge.bridge-nf-call-iptables": "1",
    "net.ipv4.ip_forward": "1",
    "net.ipv6.conf.all.forwarding": "1",
}
DEAF_TO_ROUTERS = """\
for unit in /etc/systemd/network/10-cloud-init-*.network; do
    if [ -e "$unit" ] && [ ! -s "$unit.d/autojoin.conf" ]; then
        mkdir -p "$unit.d"
        printf '[Network]\\nIPv6AcceptRA=no\\n' >"$unit.d/autojoin.conf"
        ip -6 address flush scope global dynamic
        systemctl --no-block try-restart systemd-networkd
    fi
done
"""
# Written last: once it is there, everything the join needs is there.
COMPLETE = "/etc/autojoin/complete"
# A first boot whose power was cut before `join` had all of it on the disk: files may be empty, and
# cloud-init would not write them again, a network's least of all, which it makes before this runs.
BEGIN_ANEW = f"""\
if [ -e /var/lib/cloud/instance/sem/config_write_files ] && [ ! -e /var/lib/autojoin/kept ]; then
    rm -f {COMPLETE}
    cloud-init clean
    systemctl reboot --force
    sleep 60
fi
"""
# Stands for the authority's certificate where that is not known: nothing verifies against it.
UNKNOWN_AUTHORITY = """\
# PLACEHOLDER: the certificate of the cluster's authority is not known here.
# It is there after the first `pulumi up`; until then no machine can join with this file.
"""
JOIN_SCRIPT = Path(__file__).parent / "on_node" / "join.sh"
INSTALL_SCRIPT = Path(__file__).parent / "on_node" / "install-packages.sh"

# cloud-init's modules that a node uses. The rest costs a second of boot on a small machine.
MODULES = {
    "cloud_init_modules": [
        "bootcmd",
        "write_files",
        "set_hostname",
        "update_hostname",
        "ssh",
    ],
    "cloud_config_modules": ["runcmd"],
    "cloud_final_modules": ["scripts_user", "final_message"],
}


def seed(
    cluster: Cluster,
    node: Node,
    *,
    authority_pem: str,
    gate_url: str,
    join_key: str,
    kubelet_overrides: dict[str, Any] | None = None,
) -> Seed:
    """The seed that makes a fresh machine join as `node`.

    `authority_pem` is the cluster's certificate authority, the only one the node trusts.
    The node's extra user-data is merged into its own: dicts merge, lists are appended, the rest
    replaces; with it all of cloud-init's own modules run, since it may need any.
    Raises ValueError where the values cannot make a node.
    """
    data = user_data(
        cluster,
        node,
        authority_pem=authority_pem,
        gate_url=gate_url,
        join_key=join_key,
        kubelet_overrides=kubelet_overrides,
    )
    return texts(cluster, node, data)


def texts(cluster: Cluster, node: Node, data: dict[str, Any]) -> Seed:
    """The seed of `node` with `data` as its user-data."""
    return Seed(
        user_data=cloud_config(data),
        meta_data=to_yaml({"instance-id": node.identity, "local-hostname": node.name}),
        network_config=to_yaml(network(cluster, node)),
        vendor_data=cloud_config({}),
    )


def user_data(
    cluster: Cluster,
    node: Node,
    *,
    authority_pem: str,
    gate_url: str,
    join_key: str,
    kubelet_overrides: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The user-data of `seed`, before it is text."""
    files = _files(cluster, node, authority_pem, gate_url, join_key, kubelet_overrides or {})
    return _appended(_user_data(cluster, node, files), node.extra_user_data)


def _user_data(cluster: Cluster, node: Node, files: list[dict[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {
        "hostname": node.name,
        "preserve_hostname": False,
        "locale": "C.UTF-8",
        "package_update": False,
        "package_upgrade": False,
        "growpart": {"mode": "auto" if node.grow_root else "off"},
        "resize_rootfs": node.grow_root,
        # No default user, and so no way in, unless the lab's own user-data makes one.
        "users": [{"name": "root"}],
        "ssh_genkeytypes": ["ed25519"],
        "ssh_pwauth": False,
        "no_ssh_fingerprints": True,
        "ssh": {"emit_keys_to_console": False},
        "bootcmd": [
            ["sh", "-c", BEGIN_ANEW],
            _start_when_complete(),
            *_deaf_to_routers(cluster, node),
        ],
        "write_files": files,
        # Where bootcmd could not (no systemd-run, say): a join that runs is left alone, and one
        # that was refused is not asked again.
        "runcmd": [
            f"systemctl is-failed --quiet {JOIN_UNIT} || systemctl start --no-block {JOIN_UNIT}"
        ],
    }
    if "ssh_authorized_keys" in node.extra_user_data and "default" not in _users(node):
        # They are root's then, and cloud-init would let root only be told to log in as another.
        data["disable_root"] = False
    if node.storage_disk:
        data |= _storage(node.storage_disk)
    if not _needs_few_modules(node):
        return data
    first = MODULES["cloud_init_modules"]
    grow = ["growpart", "resizefs"] if node.grow_root else []
    return data | MODULES | {"cloud_init_modules": [*first, *grow]}


def _users(node: Node) -> list[Any]:
    users = node.extra_user_data.get("users")
    return users if isinstance(users, list) else []


def _needs_few_modules(node: Node) -> bool:
    """Whether MODULES are all that cloud-init has to run."""
    return not (node.plain or node.storage_disk or node.extra_user_data)


def _storage(disk: str) -> dict[str, Any]:
    """A disk for the container runtime's data. One that holds a file system is left as it is."""
    return {
        "disk_setup": {disk: {"table_type": "gpt", "layout": True, "overwrite": False}},
        "fs_setup": [
            {"device": disk, "partition": "auto", "filesystem": "ext4", "label": STORAGE_LABEL}
        ],
        "mounts": [
            [f"LABEL={STORAGE_LABEL}", CONTAINERD, "ext4", "defaults,nofail,noatime", "0", "2"]
        ],
    }


def _start_when_complete() -> list[str]:
    """Start the join the moment its files are written, and at every boot until it is done.

    runcmd waits for two more stages of cloud-init, which is about as long as the whole join.
    Default dependencies would wait for sysinit.target, which waits for this very command.
    """
    return [
        "systemd-run",
        "--no-block",
        "--unit=autojoin-start",
        "--path-property=DefaultDependencies=no",
        f"--path-property=PathExists={COMPLETE}",
        "--property=DefaultDependencies=no",
        "--property=RemainAfterExit=yes",
        "systemctl",
        "start",
        "--no-block",
        JOIN_UNIT,
    ]


def _deaf_to_routers(cluster: Cluster, node: Node) -> list[list[str]]:
    """What `accept-ra` is to netplan, for networkd: cloud-init's own renderer passes it over.

    networkd runs by then, and D-Bus, by which it could be told to reload, does not.
    """
    gateways = map(cluster.gateway_of, node.addresses)
    return [["sh", "-c", DEAF_TO_ROUTERS]] if any(":" in (it or "") for it in gateways) else []


def _files(
    cluster: Cluster,
    node: Node,
    authority_pem: str,
    gate_url: str,
    join_key: str,
    overrides: dict[str, Any],
) -> list[dict[str, Any]]:
    other = cluster.api_server_authority
    if other:
        own = {"authentication": {"x509": {"clientCAFile": kubelet.AUTHORITIES}}}
        overrides = kubelet.merged(own, overrides)
    configuration = kubelet.configuration(cluster, node, overrides)
    endpoint = str(configuration["containerRuntimeEndpoint"])
    environment = {
        "NODE": node.name,
        "ADDRESSES": " ".join(node.addresses),
        "IDENTITY": node.identity,
        "GATE_URL": gate_url.rstrip("/"),
        "API_SERVER": cluster.api_server.rstrip("/"),
        "NODE_KEY": node.node_key,
        "NOT_BEFORE": str(_not_before(authority_pem)),
        "RUNTIME_SOCKET": endpoint.removeprefix("unix://"),
        "KUBELET_HEALTH": f"http://127.0.0.1:{configuration['healthzPort']}/healthz",
    }
    if other:
        environment["API_SERVER_AUTHORITY"] = kubelet.API_SERVER_AUTHORITY
    return [
        _file(kubelet.AUTHORITY, authority_pem, "0644"),
        *(_authorities(authority_pem, other) if other else ()),
        _file(JOIN_KEY, join_key, "0600"),
        _file(JOIN_ENVIRONMENT, _shell(environment), "0600"),
        _file(JOIN_PROGRAM, JOIN_SCRIPT.read_text(), "0700"),
        _file(f"/etc/systemd/system/{JOIN_UNIT}", _join_service(node), "0644"),
        _file(f"/etc/systemd/system/{RENEW_UNIT}.service", RENEW_SERVICE, "0644"),
        _file(f"/etc/systemd/system/{RENEW_UNIT}.timer", RENEW_TIMER, "0644"),
        _file(kubelet.CONFIGURATION, to_yaml(configuration), "0600"),
        _file(kubelet.KUBECONFIG, to_yaml(kubelet.kubeconfig(cluster, node)), "0600"),
        _file("/etc/systemd/system/kubelet.service", kubelet.service(node), "0644"),
        _file(MODULES_FILE, "".join(f"{name}\n" for name in KERNEL_MODULES), "0644"),
        _file(SYSCTL_FILE, "".join(f"{key} = {it}\n" for key, it in SYSCTLS.items()), "0644"),
        *(_install_files(cluster, node, configuration) if node.plain else ()),
        *(
            _file(path, content, "0600")
            for path, content in registries.files(cluster.registries).items()
        ),
        _file(COMPLETE, "", "0644"),
    ]


def _authorities(authority_pem: str, other: str) -> list[dict[str, Any]]:
    both = "".join(f"{pem.strip()}\n" for pem in (authority_pem, other))
    return [
        _file(kubelet.API_SERVER_AUTHORITY, other, "0644"),
        _file(kubelet.AUTHORITIES, both, "0644"),
    ]


def _install_files(
    cluster: Cluster, node: Node, configuration: dict[str, Any]
) -> list[dict[str, Any]]:
    """What a plain image needs to get its packages from."""
    packages = cluster.packages
    given = packages.key_text
    environment = {
        "REPOSITORY": sources.repository(packages, cluster.kubernetes_version),
        "SUITE": packages.suite,
        "KEY_FINGERPRINT": packages.fingerprint,
        "KUBERNETES_VERSION": cluster.kubernetes_version,
        "PACKAGES": " ".join(("containerd", *node.packages)),
        "SANDBOX_IMAGE": cluster.sandbox_image,
        # Both must keep control groups in the same way.
        "SYSTEMD_CGROUP": str(configuration.get("cgroupDriver") == "systemd").lower(),
    }
    return [
        *([_file(PACKAGES_KEYRING, given, "0644")] if given else ()),
        _file(INSTALL_ENVIRONMENT, _shell(environment), "0600"),
        _file(INSTALL_PROGRAM, INSTALL_SCRIPT.read_text(), "0700"),
    ]


def _shell(values: dict[str, str]) -> str:
    return "".join(f"{key}={shlex.quote(value)}\n" for key, value in values.items())


def _file(path: str, content: str, permissions: str) -> dict[str, Any]:
    if content and not content.endswith("\n"):
        content += "\n"
    return {"path": path, "permissions": permissions, "owner": "root:root", "content": content}


def _join_service(node: Node) -> str:
    """Without default dependencies: the join waits for what it needs, and for no more of the boot.

    Where the rest of cloud-init has nothing to do for the node, it waits for the join instead of
    taking the processor from it. Where the user's own part sets up apt, the join waits for that.
    Status 3 is a refusal, which asking again does not change.
    """
    later = "cloud-config.service " if _needs_few_modules(node) else ""
    earlier = " cloud-config.service" if node.plain and "apt" in node.extra_user_data else ""
    return f"""\
[Unit]
Description=Join this machine to its Kubernetes cluster
DefaultDependencies=no
Conflicts=shutdown.target
Before={later}shutdown.target
After=network.target{earlier}
ConditionPathExists={JOIN_KEY}
StartLimitIntervalSec=3600
StartLimitBurst=30

[Service]
Type=oneshot
ExecStart={JOIN_PROGRAM}
Restart=on-failure
RestartSec=10
RestartPreventExitStatus=3
StandardOutput=append:/var/log/autojoin-join.log
StandardError=inherit

[Install]
WantedBy=multi-user.target
"""


def network(cluster: Cluster, node: Node) -> dict[str, Any]:
    """network-config, version 2: one interface with the node's addresses, and nothing by DHCP."""
    if not node.mac and not node.interface:
        raise ValueError(f"worker {node.name}: neither a MAC address nor an interface is known")
    match = {"macaddress": node.mac} if node.mac else {"name": node.interface}
    interface: dict[str, Any] = {
        "match": match,
        "dhcp4": False,
        "dhcp6": False,
        "addresses": [_with_prefix(address, cluster, node) for address in node.addresses],
    }
    for address in node.addresses:
        _add_gateway(interface, cluster, address)
    if cluster.dns_servers:
        interface["nameservers"] = {"addresses": list(cluster.dns_servers)}
    # The entry's own name is any where netplan reads this; cloud-init's renderer for networkd, as
    # Debian has it, knows no match by name and takes this one for it, a glob too.
    name = "node0" if node.mac else node.interface
    return {"version": 2, "ethernets": {name: interface}}


def _add_gateway(interface: dict[str, Any], cluster: Cluster, address: str) -> None:
    """The default route of an address, where there is one, and the way to a gateway elsewhere."""
    gateway = cluster.gateway_of(address)
    if gateway is None:
        return
    there = ipaddress.ip_address(gateway)
    routes: list[dict[str, Any]] = []
    # A link-local gateway is on the link by itself.
    on_link = cluster.network_of(gateway) is None and not there.is_link_local
    if on_link:
        # For netplan the word below would do; cloud-init's renderer for networkd passes it over.
        routes.append({"to": f"{gateway}/{there.max_prefixlen}", "scope": "link"})
    if there.version == 4:
        default = {"to": "0.0.0.0/0", "via": gateway}
        routes.append(default | ({"on-link": True} if on_link else {}))
    else:
        # Not as a route: cloud-init 22.4 makes ::/64 of ::/0 for networkd.
        interface["gateway6"] = gateway
        # What a router advertises would bring a second, newer address, from which the node would
        # speak to BGP peers, who know it by this one. For netplan; _deaf_to_routers is for others.
        interface["accept-ra"] = False
    if routes:
        interface["routes"] = [*interface.get("routes", []), *routes]


def _with_prefix(address: str, cluster: Cluster, node: Node) -> str:
    network = cluster.network_of(address)
    if network is not None:
        return f"{address}/{network.prefixlen}"
    raise ValueError(
        f"worker {node.name}: address {address} is in none of the node networks "
        f"({', '.join(cluster.node_cidrs)}); correct the address or add its network to nodeCidrs"
    )


@lru_cache(maxsize=8)
def _not_before(authority_pem: str) -> int:
    """The authority's first valid second since the epoch: no node's clock may be behind it."""
    if authority_pem == UNKNOWN_AUTHORITY:
        return 0
    try:
        certificate = x509.load_pem_x509_certificate(authority_pem.encode())
    except ValueError as error:
        raise ValueError(
            "the authority's certificate is not a PEM certificate; "
            f"found {authority_pem[:40]!r}: check what the CA host printed"
        ) from error
    return int(certificate.not_valid_before_utc.timestamp())


def _appended(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in extra.items():
        known = result.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            result[key] = _appended(known, value)
        elif isinstance(known, list) and isinstance(value, list):
            result[key] = known + value
        else:
            result[key] = value
    return result


def cloud_config(data: dict[str, Any]) -> str:
    """A user-data document of cloud-init."""
    return "#cloud-config\n" + to_yaml(data)

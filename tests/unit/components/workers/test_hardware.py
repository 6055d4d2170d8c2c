"""What each type of hardware emits, read back as its consumer reads it."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from components.load import from_values
from components.workers.bare_metal import GUARD_SCRIPT
from components.workers.bhyve import vnic
from components.workers.cloud_init import PACKAGES_KEYRING
from components.workers.hardware_types import HARDWARE, Emission, Hardware, of
from lab import image
from stack import models
from stack.problem import ConfigError
from tests.unit.components.examples import AUTHORITY_PEM
from tests.unit.components.workers.fake_cluster import Authority

SECRET = "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\n"
STACK_FILE = Path(__file__).parents[3] / "golden" / "hardware.yaml"
VALUES = {
    key.removeprefix("autojoin:"): section
    for key, section in yaml.safe_load(STACK_FILE.read_text())["config"].items()
}
for _board in VALUES["boards"].values():
    _board["password"] = "a board's own"
KINDS = sorted(VALUES["workers"])


def make(name: str, **changes: Any) -> tuple[Hardware, Emission]:
    values = copy.deepcopy(VALUES)
    values["workers"][name] |= changes
    lab = from_values(values)
    hardware = of(lab, name)
    return hardware, hardware.emit(SECRET, AUTHORITY_PEM)


def node_data(name: str, emission: Emission) -> dict[str, Any]:
    """The user-data that the node itself gets: of bare metal, what the installer hands on."""
    data: dict[str, Any] = yaml.safe_load(emission.seed.user_data)
    return data["autoinstall"]["user-data"] if "autoinstall" in data else data


def written(name: str, emission: Emission) -> dict[str, str]:
    return {file["path"]: file["content"] for file in node_data(name, emission)["write_files"]}


def problems(name: str, **changes: Any) -> str:
    with pytest.raises(ConfigError) as error:
        make(name, **changes)
    return str(error.value)


def test_the_schema_names_the_types_that_there_are() -> None:
    assert set(get_args(models.Hardware)) == set(HARDWARE)


# --- all of them ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_cloud_init_finds_nothing_wrong(name: str, tmp_path: Path) -> None:
    """cloud-init's own schema command, as the lab's machines have it."""
    _, emission = make(name)
    documents = {"whole": emission.seed.user_data}
    if "autoinstall" in yaml.safe_load(emission.seed.user_data):
        documents = {"nested": "#cloud-config\n" + yaml.safe_dump(node_data(name, emission))}
    packages = image.root() / "usr/lib/python3/dist-packages"
    assert packages.is_dir(), "the lab's image is needed: make tools"
    for kind, text in documents.items():
        (tmp_path / kind).write_text(text)
        answer = subprocess.run(
            [sys.executable, "-m", "cloudinit.cmd.main", "schema", "--config-file", kind],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(packages)},
            capture_output=True, text=True,
        )  # fmt: skip
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert "Valid" in answer.stdout


@pytest.mark.parametrize("name", KINDS)
def test_the_same_input_gives_the_same_files(name: str) -> None:
    one, first = make(name)
    other, second = make(name)
    assert one.files(first) == other.files(second)
    if one.delivery(first.identity):
        assert one.delivery_input(first) == other.delivery_input(second)


@pytest.mark.parametrize("name", KINDS)
def test_secrets_are_for_root_alone_but_where_a_web_server_must_read_them(name: str) -> None:
    hardware, emission = make(name)
    for path, file in hardware.files(emission).items():
        if emission.keys.join_key.encode() in file.content:
            assert file.mode == (0o644 if path.startswith("http/") else 0o600), path


@pytest.mark.parametrize("name", KINDS)
def test_without_the_secret_nothing_is_derived(name: str) -> None:
    values = copy.deepcopy(VALUES)
    hardware = of(from_values(values), name)
    redacted = hardware.emit(None, AUTHORITY_PEM)
    assert written(name, redacted)["/etc/autojoin/join-key"] == "REDACTED\n"


@pytest.mark.parametrize("name", KINDS)
def test_scripts_and_commands_are_shell(name: str, tmp_path: Path) -> None:
    hardware, emission = make(name)
    scripts = {
        path: it.content for path, it in hardware.files(emission).items() if path[-3:] == ".sh"
    }
    scripts |= {
        path: text.encode()
        for path, text in written(name, emission).items()
        if text.startswith("#!/bin/sh")
    }
    assert scripts
    for path, content in scripts.items():
        (tmp_path / "script").write_bytes(content)
        command = ["shellcheck", "--shell=sh", "--external-sources", str(tmp_path / "script")]
        assert subprocess.run(command).returncode == 0, path
    if way := hardware.delivery(emission.identity):
        for words in (way.create, way.delete):
            assert subprocess.run(["dash", "-n", "-c", words]).returncode == 0


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("name", ["bhyve", "metal"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(extra=st.dictionaries(TEXT.map(lambda text: f"x{text}"), DATA, max_size=3), lines=DATA)
def test_whatever_a_person_adds_arrives(name: str, extra: dict[str, Any], lines: Any) -> None:
    """Quotes, `$`, `#`, `: `, non-ASCII, control characters, YAML's own words: kept as they are."""
    added = {**extra, "runcmd": [["echo", lines]]}
    _, emission = make(name, userData=added)
    data = node_data(name, emission)
    assert {key: data[key] for key in extra} == extra
    assert data["runcmd"][-1] == ["echo", lines]
    assert "/etc/autojoin/join-key" in written(name, emission)


def test_two_hundred_lines_of_a_persons_own() -> None:
    script = "".join(f'line {n}: "quoted" $HOME # no: comment ü\n' for n in range(200))
    _, emission = make("metal", userData={"write_files": [{"path": "/x", "content": script}]})
    assert written("metal", emission)["/x"] == script


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"größe": "1"}}, "is no label key"),
        ({"labels": {"a": "x y"}}, "is no label value"),
        ({"labels": {"node-role.kubernetes.io/worker": ""}}, "no node may set on itself"),
        ({"taints": ["a=b:Never"]}, "is no taint"),
        ({"taints": ["a=b:NoSchedule", "a=c:NoSchedule"]}, "taints[1]: is there already"),
        ({"userData": {"runcmd": "reboot"}}, "userData.runcmd: must be a list"),
        ({"userData": {"a": {1: "x"}}}, "userData.a.1: can't be written to the seed"),
        ({"image": "/srv"}, "image: means nothing here"),
        ({"architecture": "arm64"}, "architecture: can't be with hardware: bhyve"),
        ({"storageDisk": "/dev/sda; reboot"}, "is no disk"),
        ({"guest": {"memory": "4"}}, "is no size"),
        ({"guest": {"link": 'x"; reboot'}}, "is no name of a link"),
    ],
)
def test_what_can_not_be_kept_is_refused(changes: dict[str, Any], message: str) -> None:
    assert message in problems("bhyve", **changes)


def test_settings_reach_the_kubelet() -> None:
    _, emission = make("cm4", kubelet={"maxPods": 60}, labels={"example.com/rack": "a"})
    files = written("cm4", emission)
    configuration = yaml.safe_load(files["/etc/kubernetes/kubelet.yaml"])
    assert configuration["maxPods"] == 60
    assert configuration["cgroupDriver"] == "systemd"
    assert "resolvConf" not in configuration  # decided on the node: join.sh
    assert configuration["registerWithTaints"][0]["key"] == "dedicated"
    assert "--node-labels=example.com/rack=a" in files["/etc/systemd/system/kubelet.service"]
    assert "NODE_KEY=rsa-2048\n" in files["/etc/autojoin/join.env"]


def test_plain_images_get_packages_of_the_configured_version_and_templates_none() -> None:
    _, emission = make("cm4")
    settings = written("cm4", emission)["/etc/autojoin/install-packages.env"]
    assert "REPOSITORY=https://pkgs.k8s.io/core:/stable:/v1.34/deb/\n" in settings
    assert "KUBERNETES_VERSION=1.34.2\n" in settings
    assert "PACKAGES=containerd\n" in settings
    _, older = make("cm4", osRelease="ubuntu-22.04")
    settings = written("cm4", older)["/etc/autojoin/install-packages.env"]
    assert "PACKAGES='containerd linux-modules-extra-raspi'\n" in settings
    _, template = make("cm4", imageKind="template")
    assert not [path for path in written("cm4", template) if "install-packages" in path]
    _, guest = make("bhyve")
    assert not [path for path in written("bhyve", guest) if "install-packages" in path]


def test_a_mirror_with_a_key_of_its_own(tmp_path: Path) -> None:
    values = copy.deepcopy(VALUES)
    (tmp_path / "key.asc").write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
    values["cluster"]["packages"] = {
        **{"repository": "http://192.168.10.4/k8s", "suite": "stable main"},
        **{"key": str(tmp_path / "key.asc")},
    }
    emission = of(from_values(values), "cm4").emit(SECRET, AUTHORITY_PEM)
    files = written("cm4", emission)
    settings = files["/etc/autojoin/install-packages.env"]
    assert "REPOSITORY=http://192.168.10.4/k8s/\nSUITE='stable main'\n" in settings
    assert "KEY_FINGERPRINT=''\n" in settings
    assert files[PACKAGES_KEYRING] == (tmp_path / "key.asc").read_text()


def test_the_join_waits_where_userdata_sets_up_apt() -> None:
    unit = "/etc/systemd/system/autojoin-join.service"
    proxy = {"apt": {"http_proxy": "http://192.168.10.4:3142"}}
    for extra, after in ((proxy, "network.target cloud-config.service"), ({}, "network.target")):
        _, emission = make("cm4", userData=extra)
        assert f"\nAfter={after}\n" in written("cm4", emission)[unit]


def test_containerd_keeps_control_groups_as_the_kubelet_does() -> None:
    for driver, systemd in (("systemd", "true"), ("cgroupfs", "false")):
        _, emission = make("bhyve", imageKind="plain", kubelet={"cgroupDriver": driver})
        settings = written("bhyve", emission)["/etc/autojoin/install-packages.env"]
        assert f"SYSTEMD_CGROUP={systemd}\n" in settings


DUAL = ["192.168.10.99", "fd00:10::99"]


def make_dual(name: str) -> tuple[Hardware, Emission]:
    """A worker with an address of each family, in a cluster that has both."""
    values = copy.deepcopy(VALUES)
    cluster = values["cluster"]
    cluster |= {
        "nodeCidrs": [*cluster["nodeCidrs"], "fd00:10::/64"],
        "podCidrs": [*cluster["podCidrs"], "fd00:20::/104"],
        "gateway": ["192.168.10.1", "fe80::1"],
    }
    values["workers"][name]["address"] = DUAL
    lab = from_values(values)
    hardware = of(lab, name)
    return hardware, hardware.emit(SECRET, AUTHORITY_PEM)


@pytest.mark.parametrize("name", KINDS)
def test_both_addresses_of_a_node_are_everywhere_that_one_is(name: str) -> None:
    hardware, emission = make_dual(name)
    (interface,) = yaml.safe_load(emission.seed.network_config)["ethernets"].values()
    assert interface["addresses"] == ["192.168.10.99/24", "fd00:10::99/64"]
    assert interface["routes"] == [{"to": "0.0.0.0/0", "via": "192.168.10.1"}]
    assert interface["gateway6"] == "fe80::1"
    files = written(name, emission)
    assert f"--node-ip={','.join(DUAL)}" in files["/etc/systemd/system/kubelet.service"]
    assert f"ADDRESSES='{' '.join(DUAL)}'\n" in files["/etc/autojoin/join.env"]
    assert json.loads(hardware.register_input(emission, 24))["addresses"] == DUAL
    about = json.loads(hardware.files(emission)["node.json"].content)
    assert (about["address"], about["addresses"]) == (DUAL[0], DUAL)
    if dnsmasq := hardware.files(emission).get("dnsmasq.conf"):
        assert f",192.168.10.99,[fd00:10::99],{name}\n".encode() in dnsmasq.content


@pytest.mark.parametrize("name", KINDS)
def test_another_authority_of_the_api_server_is_pinned_too(name: str, tmp_path: Path) -> None:
    other = Authority("the API server's").pem
    (tmp_path / "ca.crt").write_text(other)
    values = copy.deepcopy(VALUES)
    for text in (other, str(tmp_path / "ca.crt")):
        values["cluster"]["apiServerCertificateAuthority"] = text
        lab = from_values(values)
        hardware = of(lab, name)
        files = written(name, hardware.emit(SECRET, AUTHORITY_PEM))
        assert files["/etc/autojoin/ca.pem"] == AUTHORITY_PEM
        assert files["/etc/autojoin/api-server-ca.pem"] == other
        assert files["/etc/autojoin/authorities.pem"] == AUTHORITY_PEM + other
        kubeconfig = yaml.safe_load(files["/etc/kubernetes/kubelet.kubeconfig"])
        (cluster,) = kubeconfig["clusters"]
        assert cluster["cluster"]["certificate-authority"] == "/etc/autojoin/api-server-ca.pem"
        kubelet = yaml.safe_load(files["/etc/kubernetes/kubelet.yaml"])
        clients = kubelet["authentication"]["x509"]["clientCAFile"]
        assert clients == "/etc/autojoin/authorities.pem"
        environment = files["/etc/autojoin/join.env"]
        assert "API_SERVER_AUTHORITY=/etc/autojoin/api-server-ca.pem\n" in environment


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("/nowhere/ca.crt", "can't be read (/nowhere/ca.crt: No such file or directory)"),
        ("-----BEGIN CERTIFICATE-----\nabc", "is no CA's certificate in PEM"),
        (AUTHORITY_PEM + SECRET, "holds a private key"),
        ("leaf", "is no CA's certificate in PEM"),
    ],
)
def test_what_is_no_authority_of_the_api_server_is_refused(given: str, message: str) -> None:
    values = copy.deepcopy(VALUES)
    if given == "leaf":
        authority = Authority()
        given = authority.sign(authority.name, authority.key.public_key(), None)
    values["cluster"]["apiServerCertificateAuthority"] = given
    with pytest.raises(ConfigError) as error:
        from_values(values)
    assert f"apiServerCertificateAuthority: {message}" in str(error.value)


def test_one_address_is_the_same_as_a_list_of_it() -> None:
    address = VALUES["workers"]["bhyve"]["address"]
    one, first = make("bhyve")
    other, second = make("bhyve", address=[address])
    assert (first, one.files(first)) == (second, other.files(second))


def test_storage_disk_is_mounted_before_the_runtime_and_never_wiped() -> None:
    _, emission = make("rk1")
    data = node_data("rk1", emission)
    assert data["disk_setup"]["/dev/nvme0n1"]["overwrite"] is False
    assert "overwrite" not in data["fs_setup"][0]
    assert data["mounts"][0][1] == "/var/lib/containerd"
    assert "cloud_init_modules" not in data  # all of cloud-init's own run


def test_only_a_new_generation_is_a_new_identity_where_a_person_starts_the_machine() -> None:
    for name in ("bhyve", "rk1", "cm4", "metal"):
        _, before = make(name)
        _, edited = make(name, labels={"bgp": "worker", "zone": "b"})
        _, raised = make(name, generation=2)
        assert before.identity == edited.identity != raised.identity
        assert before.keys == edited.keys != raised.keys


# --- each by itself -------------------------------------------------------------------------


def test_bhyve_zone_and_template_agree_on_the_machine() -> None:
    hardware, emission = make("bhyve")
    files = hardware.files(emission)
    zone = json.loads(files["zadm.json"].content)
    template = dict(re.findall(r'(\w+)="(.*)"\n', files["vm-bhyve.conf"].content.decode()))
    network = yaml.safe_load(emission.seed.network_config)["ethernets"]["node0"]
    mac = zone["net"][0]["mac-addr"]
    assert mac == template["network0_mac"] == network["match"]["macaddress"]
    assert mac.startswith("02:08:20:")
    assert zone["cdrom"] == ["/var/lib/autojoin/nodes/bhyve/seed.iso"]
    assert template["disk1_name"] == zone["cdrom"][0]
    assert template["disk1_type"] == template["disk0_type"]  # which every guest has a driver for
    assert (zone["vcpus"], template["cpu"]) == ("4", "4")
    assert (zone["ram"], template["memory"]) == ("8G", "8G")
    assert zone["bootdisk"]["path"] == "rpool/zones/bhyve/root"
    assert "allowed-address" not in json.dumps(zone)  # its guard would drop what pods send


# A link name on illumos: letters, digits and _, a letter first, a number without a leading 0 last.
LINK = re.compile(r"[A-Za-z]\w*?(?<!\d)(0|[1-9]\d*)")
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?", fullmatch=True)


@settings(max_examples=300, deadline=None)
@given(st.lists(NAMES, min_size=2, max_size=6, unique=True))
@example(["kubernetes-worker-1", "kubernetes-worker-2"])
@example(["01-node", "n01-node", "n-01-node"])
@example(["a" * 52, "a" * 51 + "b", "a" * 30, "a" * 31])
@example(["a-1", "a-1-0", "a1", "a", "a-0", "a0", "a--0"])
def test_each_name_has_a_vnic_of_its_own(names: list[str]) -> None:
    found = [vnic(name) for name in names]
    assert len(set(found)) == len(names)
    for link in found:
        assert LINK.fullmatch(link), link
        assert len(link) < 32


def guest(folder: Path, files: dict[str, Any], *words: str, tool: str) -> str:
    """What guest.sh says and does, with a hypervisor's tools that write down what they are told."""
    tools, here = folder / "tools", folder / "here"
    tools.mkdir(exist_ok=True)
    here.mkdir(exist_ok=True)
    (folder / ".templates").mkdir(exist_ok=True)
    stubs = {
        tool: f'echo "{tool} $*"; [ "$1/{tool}" != create/zadm ] || cat',
        "sysrc": "echo zfs:zroot/vm",
        "zfs": f"echo {folder}",
    }
    for name, action in stubs.items():
        (tools / name).write_text(f"#!/bin/sh\n{action}\n")
        (tools / name).chmod(0o755)
    for name in ("guest.sh", "guest.env", "zadm.json", "vm-bhyve.conf"):
        (here / name).write_bytes(files[name].content)
    answer = subprocess.run(
        ["dash", str(here / "guest.sh"), *words],
        env={"PATH": f"{tools}:/usr/bin:/bin"}, capture_output=True, text=True,
    )  # fmt: skip
    return answer.stdout + answer.stderr


def test_a_zone_is_made_from_its_image_over_the_link_that_is_told(tmp_path: Path) -> None:
    hardware, emission = make("bhyve", guest={})
    files = hardware.files(emission)
    assert "global-nic" not in json.loads(files["zadm.json"].content)["net"][0]
    assert "guest.sh: which image becomes the disk?" in guest(tmp_path, files, tool="zadm")
    assert "set guest.link of bhyve" in guest(tmp_path, files, "debian.img", tool="zadm")
    said = guest(tmp_path, files, "debian.img", "igb0", tool="zadm")
    create, *zone, start = said.splitlines()
    assert (create, start) == ("zadm create -b bhyve -i debian.img bhyve", "zadm start bhyve")
    (net,) = json.loads("\n".join(zone))["net"]
    assert net["global-nic"] == "igb0" and net["physical"] == "bhyve0"
    told, emission = make("bhyve", guest={"link": "aggr0", "image": "uuid"})
    said = guest(tmp_path, told.files(emission), tool="zadm")
    assert said.startswith("zadm create -b bhyve -i uuid bhyve\n")
    assert '"global-nic": "aggr0", ' in said


def test_a_machine_of_vm_bhyve_is_made_from_its_image(tmp_path: Path) -> None:
    hardware, emission = make("bhyve", guest={"image": "debian.qcow2"})
    said = guest(tmp_path, hardware.files(emission), tool="vm")
    assert said == "vm create -t bhyve -i debian.qcow2 bhyve\nvm start bhyve\n"
    template = hardware.files(emission)["vm-bhyve.conf"].content
    assert (tmp_path / ".templates/bhyve.conf").read_bytes() == template


def keys_of_root(emission: Emission) -> list[str]:
    """The options before root's keys, as Debian's cloud-init decides them from the user-data."""
    program = """
import sys, yaml
from cloudinit import distros, util
from cloudinit.config import cc_ssh
from cloudinit.distros import ug_util
system, user_data = map(yaml.safe_load, (open(sys.argv[1]), sys.stdin))
config = util.mergemanydict([user_data, system])
distro = distros.fetch("debian")("debian", system["system_info"], None)
users, _ = ug_util.normalize_users_groups(config, distro)
user, _ = ug_util.extract_default(users)
cc_ssh.ssh_util.setup_user_keys = lambda keys, name, options="": print(name, bool(keys), options)
options = config.get("disable_root_opts", cc_ssh.ssh_util.DISABLE_USER_OPTS)
cc_ssh.apply_credentials(set(config.get("ssh_authorized_keys", [])), user,
                         util.get_cfg_option_bool(config, "disable_root", True), options)
"""
    root = image.root()
    answer = subprocess.run(
        [sys.executable, "-c", program, str(root / "etc/cloud/cloud.cfg")],
        env={**os.environ, "PYTHONPATH": str(root / "usr/lib/python3/dist-packages")},
        input=emission.seed.user_data, capture_output=True, text=True,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()


@pytest.mark.parametrize("name", ["bhyve", "rk1", "cm4", "machine"])
def test_a_key_logs_somebody_in(name: str) -> None:
    key = {"ssh_authorized_keys": ["ssh-ed25519 AAAA me"]}
    assert keys_of_root(make(name, userData=key)[1]) == ["root True "]
    with_user, root = keys_of_root(make(name, userData={**key, "users": ["default"]})[1])
    assert with_user == "debian True "  # the image's own user, and root only says so
    assert root.startswith("root True no-port-forwarding")
    mine = keys_of_root(make(name, userData={**key, "disable_root": True})[1])
    assert mine[0].startswith("root True no-port-forwarding")  # a person's own word is the last


def test_bhyve_mac_is_kept_and_each_node_has_its_own() -> None:
    one, other = make("bhyve")[0], make("bhyve", mac="a0:36:9f:00:00:49")[0]
    assert other.mac == "a0:36:9f:00:00:49"
    assert one.mac == make("bhyve", generation=7)[0].mac


def test_autoinstall_has_the_published_shape() -> None:
    schema = yaml.safe_load((Path(__file__).parent / "autoinstall_schema.yaml").read_text())
    Draft202012Validator.check_schema(schema)
    installer = Draft202012Validator(schema)
    document = yaml.safe_load(make("metal")[1].seed.user_data)
    installer.validate(document)
    # What it once lacked: a kubelet refuses swap, and the installer makes a file of it unless told;
    # and it lets the machine boot from the network first ever after.
    storage = document["autoinstall"]["storage"]
    assert storage["swap"] == {"size": 0} and storage["grub"] == {"reorder_uefi": False}
    strange: Any
    for strange in ({"packagez": []}, {"storage": {"disk": "/dev/sda"}}, {"updates": "none"}):
        assert not installer.is_valid({"autoinstall": document["autoinstall"] | strange})


def test_the_web_root_has_the_machines_folder() -> None:
    hardware, emission = make("metal")
    folder = f"http/a0:36:9f:00:00:41/{emission.identity}"
    files = hardware.files(emission)
    for name in ("user-data", "meta-data", "network-config", "vendor-data"):
        assert files[f"{folder}/{name}"].content == files[name].content
    script = files["http/a0:36:9f:00:00:41/boot.ipxe"].content.decode()
    assert script.startswith("#!ipxe\n")
    url = f"http://192.168.10.4/autojoin/a0:36:9f:00:00:41/{emission.identity}/"
    assert f" autoinstall ds=nocloud;s={url} " in script
    assert "http://192.168.10.4/autojoin/ubuntu-24.04/vmlinuz" in script
    dnsmasq = files["dnsmasq.conf"].content.decode()
    assert "dhcp-host=a0:36:9f:00:00:41,set:metal,192.168.10.41,metal\n" in dnsmasq
    assert "http://192.168.10.4/autojoin/a0:36:9f:00:00:41/boot.ipxe\n" in dnsmasq


def test_delivery_to_a_web_root_is_the_same_tree() -> None:
    hardware, emission = make("metal")
    way = hardware.delivery(emission.identity)
    assert way is not None and way.host.address == "192.168.10.4"
    assert "/srv/http/autojoin" in way.create
    tree = {path.removeprefix("http/") for path in hardware.files(emission) if path[:5] == "http/"}
    delivered = set(hardware.delivered_files(emission))
    assert tree < delivered
    assert {path.partition("/")[0] for path in delivered} == {"metal", "a0:36:9f:00:00:41"}


def test_without_a_provisioning_host_the_output_says_where_the_files_are() -> None:
    values = copy.deepcopy(VALUES)
    del values["provisioning"], values["workers"]["machine"]
    for worker in values["workers"].values():
        worker.pop("provisioner", None)
    lab = from_values(values)
    for name in lab.workers:
        hardware = of(lab, name)
        assert hardware.delivery("any") is None and not hardware.awaited
        assert "make render" in hardware.undelivered()["files"]
    hardware, _ = make("rk1", provisioner="boot")
    assert hardware.undelivered() == {"files": "root@192.168.10.4:/srv/http/autojoin/rk1"}


def test_a_wait_is_by_wish_where_a_person_starts_the_machine() -> None:
    assert not make("rk1", provisioner="boot")[0].awaited
    assert make("rk1", provisioner="boot", awaitJoin=True)[0].awaited
    assert make("machine")[0].awaited
    assert not make("machine", awaitJoin=False)[0].awaited


@pytest.mark.parametrize(
    "change",
    [
        {"image": "/another"},
        {"bridge": "br1"},
        {"mac": "02:00:00:00:00:77"},
        {"labels": {"zone": "b"}},
        {"generation": 2},
        {"address": "192.168.10.77"},
        {"userData": {"a": 1}},
    ],
    ids=str,
)
def test_whatever_reaches_a_machine_of_ours_is_its_identity(change: dict[str, Any]) -> None:
    assert make("machine")[1].identity != make("machine", **change)[1].identity


def test_what_does_not_reach_it_is_not() -> None:
    before = make("machine")[1]
    for change in ({"joinTimeout": 77}, {"awaitJoin": False}):
        assert make("machine", **change)[1] == before


def test_another_secret_or_host_is_another_machine_of_ours_and_no_other_of_a_persons() -> None:
    def identities(name: str, **host: str) -> tuple[str, str]:
        values = copy.deepcopy(VALUES)
        for number, each in enumerate(values["provisioning"].values()):
            each |= {key: value.format(number) for key, value in host.items()}
        made = of(from_values(values), name)
        secrets = (SECRET, SECRET.replace("abc", "abd"))
        one, other = (made.emit(secret, AUTHORITY_PEM).identity for secret in secrets)
        return one, other

    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHk8"
    one, other = identities("machine")
    assert one != other and one != identities("machine", hostKey=key)[0]
    # A host that has another address or name, and the same key, is the same host.
    assert one == identities("machine", address="192.168.10.9{}")[0]
    for name in ("bhyve", "rk1", "cm4", "metal"):
        one, other = identities(name)
        assert one == other == identities(name, hostKey=key)[0]


# --- the guard of the installers ------------------------------------------------------------

MEBIBYTE = 2**20


@dataclass
class Installing:
    """A machine with the disk `sda`, whose one partition holds what is in the folder `content`.

    What would touch a machine is stood in for.
    """

    folder: Path
    shell: tuple[str, ...]

    @property
    def disk(self) -> Path:
        return self.folder / "sda"

    @property
    def content(self) -> Path:
        return self.folder / "content"

    def lay_in(self) -> None:
        tools = {
            "mount": f'[ "$3" = {self.disk}1 ] && cp -a {self.content}/. "$4"',
            "umount": 'rm -rf "$1"/*',
            "debconf-set": f'echo "$@" >>{self.folder}/debconf',
        }
        for name, action in tools.items():
            file = self.folder / "tools" / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"#!/bin/sh\n{action}\n")
            file.chmod(0o755)
        self.content.mkdir()
        self.disk.write_bytes(b"x" * 4 * MEBIBYTE)
        about = self.folder / "sys/class/block/sda"
        (about / "sda1").mkdir(parents=True)
        (about / "size").write_text(f"{4 * MEBIBYTE // 512}\n")

    def guard(self, identity: str, disk: Path | None = None) -> subprocess.CompletedProcess[str]:
        path = f"{self.folder}/tools:{os.environ['PATH']}"
        return subprocess.run(
            [*self.shell, "-c", GUARD_SCRIPT.read_text(), "guard", disk or self.disk, identity],
            env={**os.environ, "PATH": path, "AUTOJOIN_ROOT": str(self.folder)},
            capture_output=True, text=True,
        )  # fmt: skip


@pytest.fixture(params=[("dash",), ("busybox", "sh")], ids=["Ubuntu's shell", "Debian's"])
def installing(request: pytest.FixtureRequest, tmp_path: Path) -> Installing:
    machine = Installing(tmp_path, request.param)
    machine.lay_in()
    return machine


def test_the_guard_stops_only_over_the_very_same_joined_node(installing: Installing) -> None:
    content, untouched = installing.content, installing.disk.read_bytes()
    assert installing.guard("metal-g1-aa").returncode == 0  # an empty disk
    (content / "var/lib/autojoin").mkdir(parents=True)
    (content / "var/lib/autojoin/identity").write_text("metal-g1-aa\n")
    assert installing.guard("metal-g1-aa").returncode == 0  # the join never got its certificate
    (content / "var/lib/kubelet/pki").mkdir(parents=True)
    (content / "var/lib/kubelet/pki/kubelet.crt").write_text("x")
    installing.disk.write_bytes(untouched)
    stopped = installing.guard("metal-g1-aa")
    assert stopped.returncode == 1
    assert f"{installing.disk}1 holds metal-g1-aa, which has joined" in stopped.stderr
    assert installing.disk.read_bytes() == untouched
    assert installing.guard("metal-g2-bb").returncode == 0  # another generation


def test_after_a_cut_nothing_starts_from_a_disk_that_is_installed_over(
    installing: Installing,
) -> None:
    assert installing.guard("metal-g1-aa").returncode == 0
    nothing = bytes(MEBIBYTE)
    assert installing.disk.read_bytes() == nothing + b"x" * 2 * MEBIBYTE + nothing


def test_ubuntus_installer_is_told_the_kernels_name_of_a_disk(installing: Installing) -> None:
    """It compares with nothing else (subiquity#1389), and reads its answers after the guard."""
    link = installing.folder / "by-id-Samsung_SSD_980"
    link.symlink_to(installing.disk)
    _, emission = make("metal", disk="/dev/disk/by-id/x")
    answers = yaml.safe_load(emission.seed.user_data)["autoinstall"]
    answers["storage"]["layout"]["match"]["path"] = str(link)
    written = installing.folder / "autoinstall.yaml"
    written.write_text(yaml.safe_dump(answers))
    assert installing.guard("metal-g1-aa", link).returncode == 0
    after = yaml.safe_load(written.read_text())
    answers["storage"]["layout"]["match"]["path"] = str(installing.disk)
    assert after == answers
    assert installing.guard("metal-g1-aa").returncode == 0  # a kernel's name is left as it is
    assert yaml.safe_load(written.read_text()) == answers


def test_so_is_debians(installing: Installing) -> None:
    link = installing.folder / "by-id-Samsung_SSD_980"
    link.symlink_to(installing.disk)
    assert installing.guard("metal-g1-aa", link).returncode == 0
    told = (installing.folder / "debconf").read_text()
    assert told == f"partman-auto/disk {installing.disk}\n"


def test_the_guard_names_a_missing_disk(installing: Installing) -> None:
    missing = installing.guard("metal-g1-aa", Path("/dev/nvme9n9"))
    assert missing.returncode == 1
    assert "there is no disk /dev/nvme9n9 in this machine" in missing.stderr

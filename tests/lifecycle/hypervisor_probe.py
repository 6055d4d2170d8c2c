"""What a cluster has on a provisioning host, as JSON; run there by `python3 - CLUSTER FOLDER …`."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

CLUSTER, *FOLDERS = sys.argv[1:]
MACHINES = Path("/var/lib/autojoin/machines") / CLUSTER
PROGRAMS = Path("/usr/local/lib/autojoin/clusters") / CLUSTER
UNIT = f"autojoin-machine-{CLUSTER}"
WANTS = Path("/etc/systemd/system/multi-user.target.wants")
PKI = Path("disk/root/var/lib/kubelet/pki")


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def files(folder: Path) -> dict[str, str]:
    """Path below `folder` to the start of its SHA-256."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def machine(home: Path) -> dict[str, Any]:
    unit = f"{UNIT}@{home.name}.service"
    shown = said("systemctl", "show", "--property=InvocationID,ActiveState", unit)
    state = dict(line.split("=", 1) for line in shown.split())
    certificate = home / PKI / "kubelet.crt"
    text = said("openssl", "x509", "-noout", "-serial", "-in", str(certificate))
    serial = re.search(r"serial=([0-9A-F]+)", text)
    meta_data = home / "seed/meta-data"
    text = meta_data.read_text() if meta_data.exists() else ""
    identity = re.search(r"instance-id: (\S+)", text)
    return {
        "boot": state["InvocationID"],
        "active": state["ActiveState"] == "active",
        "serial": str(int(serial[1], 16)) if serial else "",
        "identity": identity[1] if identity else "",
        "joinKey": (home / "disk/root/etc/autojoin/join-key").exists(),
    }


def units(text: str) -> list[str]:
    return sorted(set(re.findall(rf"{UNIT}@(\S+)\.service", text)))


def main() -> None:
    homes = sorted(MACHINES.iterdir()) if MACHINES.is_dir() else []
    listed = ("--all", "--plain", "--no-legend", f"{UNIT}@*")
    mounts = re.findall(rf" {MACHINES}/([^/ ]+)/disk/root ", Path("/proc/mounts").read_text())
    found = {
        "machines": {home.name: machine(home) for home in homes if home.name[0] != "."},
        "halfDone": [home.name for home in homes if home.name[0] == "."],
        "units": units(said("systemctl", "list-units", *listed)),
        "enabled": units("\n".join(map(str, WANTS.iterdir()))),
        "mounts": sorted(mounts),
        "programs": files(PROGRAMS),
        "delivered": {folder: files(Path(folder)) for folder in FOLDERS},
    }
    print(json.dumps(found))


main()

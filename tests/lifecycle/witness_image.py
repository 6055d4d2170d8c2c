"""Brings an image that does nothing, for ever, to machines; run on their host by `python3 - NAMES`.

It stands for a pod's own image and for its sandbox: the lab has no registry to pull from.
"""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

MACHINES = Path("/var/lib/autojoin/machines")
TAGS = ["localhost/witness:1", "registry.k8s.io/pause:3.6"]
FILES = ("bin/sleep", "lib64/ld-linux-x86-64.so.2", "lib/x86_64-linux-gnu/libc.so.6")


def archive(root: Path) -> bytes:
    """As `docker save` writes it, of files of a machine's own system."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w", dereference=True) as tar:
        for path in FILES:
            tar.add((root / path).resolve(), path)
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    about = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/bin/sleep", "infinity"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": TAGS, "Layers": ["layer.tar"]}]
    parts = {
        "config.json": json.dumps(about).encode(),
        "layer.tar": layer.getvalue(),
        "manifest.json": json.dumps(manifest).encode(),
    }
    image = io.BytesIO()
    with tarfile.open(fileobj=image, mode="w") as tar:
        for name, content in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return image.getvalue()


def main() -> None:
    for name in sys.argv[1:]:
        (unit,) = subprocess.run(
            ["pgrep", "-of", f"^systemd-nspawn .*--hostname={name} "],
            capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip
        leader = subprocess.run(
            ["pgrep", "-P", unit], capture_output=True, text=True, check=True
        ).stdout.split()[0]
        (root,) = MACHINES.glob(f"*/{name}/disk/root")
        words = ["nsenter", "--all", "--target", leader, "ctr", "--namespace=k8s.io"]
        subprocess.run(
            [*words, "images", "import", "-"], input=archive(root), check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip


main()

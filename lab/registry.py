"""The lab's container images and the registry that holds them, both made once for this machine.

`python -m lab.registry is-done` (exit status 0 or 1) and `python -m lab.registry install`.
images/NAME.Containerfile says what is in an image; buildah makes it of published Go modules and
Debian packages, since no registry of images can be counted on. The registry's folder is served
read-only to every lab. It is filled beside its place and moved there at the end.

`make conformance` has a registry with more images for its lab (lab/conformance_images.py).
"""

from __future__ import annotations

import contextlib
import inspect
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab import image
from lab.facts import REGISTRY_PORT
from lab.place import Place
from lab.waiting import wait_for
from tools import pins
from tools.pins import CILIUM_VERSION, COREDNS_VERSION, IMAGE_TOOLS, GoFile, GoTool, Layout

FILES = Path(__file__).resolve().parent / "images"
BASE = "base"
# Image -> its name in the registry, which is that of the original without the registry's host.
NAMES = {
    "pause": "pause:3.10.1",
    "cilium": f"cilium/cilium:v{CILIUM_VERSION}",
    "operator-generic": f"cilium/operator-generic:v{CILIUM_VERSION}",
    "hubble-relay": f"cilium/hubble-relay:v{CILIUM_VERSION}",
    "coredns": f"coredns/coredns:v{COREDNS_VERSION}",
    "agnhost": "e2e-test-images/agnhost:2.56",
}
# The folder that a lab's registry serves in place of its own.
OTHER_FOLDER = "AUTOJOIN_REGISTRY"
ANSWER_SECONDS = 20.0
# In the hypervisor.
STORAGE = "/var/lib/docker-registry"
PKI = "/etc/kubernetes/pki"


@dataclass(frozen=True)
class Images:
    """What is in a registry: the names of its images there, and the tools that they are made of."""

    kind: str
    names: dict[str, str]
    tools: tuple[GoTool | GoFile, ...]

    def digest(self) -> str:
        """The registry's key: everything that decides what is in it."""
        layout = Layout()
        parts = [str(layout.tool(tool)) for tool in self.tools]
        files = sorted(f"{name}.Containerfile" for name in (BASE, *self.names))
        parts += [name + (FILES / name).read_text() for name in files]
        return pins.digest(image.SUITE, repr(self.names), inspect.getsource(make_image), *parts)

    def folder(self) -> Path:
        """The registry's storage; whole where it exists."""
        return pins.cache() / f"{self.kind}-{self.digest()}"

    def is_done(self) -> bool:
        return self.folder().is_dir()

    def install(self) -> Path:
        """Make every image and fill the registry, if it is not there. LabError: the log's end."""
        if self.is_done():
            return self.folder()
        image.require(("buildah", "docker-registry", "debootstrap"))
        with image.only_builder():
            if not self.is_done():
                build(self)
        return self.folder()


LAB = Images("registry", NAMES, IMAGE_TOOLS)


def served() -> Path:
    """The storage that the registry of a lab started now serves."""
    return Path(os.environ.get(OTHER_FOLDER) or LAB.folder())


def build(images: Images) -> None:
    started = time.monotonic()
    with (
        image.built("registry", images.folder()) as (building, log),
        tempfile.TemporaryDirectory(prefix=".images-", dir=pins.cache()) as context,
    ):
        fill_context(images, Path(context), log)
        with serving(building, log) as address:
            for number, name in enumerate((BASE, *images.names), 1):
                elapsed = f"{time.monotonic() - started:.0f} s"
                print(f"images: [{number}/{len(images.names) + 1}] {name} ({elapsed})", flush=True)
                make_image(name, Path(context), log)
                if name != BASE:
                    push(name, f"{address}/{images.names[name]}", log)
    print(f"images: done in {time.monotonic() - started:.0f} s", flush=True)


def fill_context(images: Images, context: Path, log: Path) -> None:
    """What the Containerfiles copy: the tools, and a Debian."""
    layout = Layout()
    for tool in images.tools:
        source = layout.tool(tool)
        if source.is_dir():
            shutil.copytree(source, context / tool.name, copy_function=os.link)
        else:
            os.link(source, context / tool.name)
    base = base_archive()
    if not base.exists():
        make_base(base, log)
    os.link(base, context / "base.tar")


def base_archive() -> Path:
    recipe = inspect.getsource(make_base) + inspect.getsource(image.prepare_apt)
    return pins.cache() / f"base-{pins.digest(image.SUITE, image.DPKG_OPTIONS, recipe)}.tar"


def unpack_base(target: Path, log: Path) -> None:
    """Into the folder `target`; made first where it is not there."""
    base = base_archive()
    if not base.exists():
        make_base(base, log)
    image.logged(["tar", "--extract", f"--file={base}", f"--directory={target}"], log)


def make_base(target: Path, log: Path) -> None:
    root = pins.cache() / ".base-building"
    image.remove_tree(root)
    root.mkdir()
    try:
        image.bootstrap(root, log)
        image.prepare_apt(root)
        image.in_root(root, "apt-get clean; rm -rf /var/lib/apt/lists/* /var/log/*.log", log)
        archive = target.with_suffix(".new")
        image.logged(["tar", "--create", f"--file={archive}", f"--directory={root}", "."], log)
        archive.rename(target)
    finally:
        image.remove_tree(root)


def buildah(*words: str) -> list[str]:
    """A command of buildah on the cache's own store: its layers are kept from build to build."""
    store = pins.cache() / "buildah"
    return ["buildah", "--root", str(store), "--runroot", f"{store}-run", *words]


def make_image(name: str, context: Path, log: Path) -> None:
    """Build one image. chroot isolation needs nothing that a container may lack."""
    file = FILES / f"{name}.Containerfile"
    options = ["--isolation", "chroot", "--layers", "--pull=never", "--timestamp", "0"]
    words = ["build", *options, "--file", str(file), "--tag", f"localhost/{name}", str(context)]
    image.logged(buildah(*words), log)


def push(name: str, target: str, log: Path) -> None:
    """zstd, as a node unpacks it several times faster than gzip."""
    options = ["--tls-verify=false", "--compression-format=zstd"]
    image.logged(buildah("push", *options, f"localhost/{name}", f"docker://{target}"), log)


@contextlib.contextmanager
def serving(storage: Path, log: Path) -> Iterator[str]:
    """A registry on `storage` that answers on this machine alone; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = configuration(str(storage), address)
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file, log.open("ab") as output:
        yaml.safe_dump(settings, file)
        file.flush()
        command = ["docker-registry", "serve", file.name]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            await_answer(address, process)
            yield address
        finally:
            process.terminate()
            process.wait()


def configuration(storage: str, address: str) -> dict[str, Any]:
    """docker-registry's config.yml."""
    return {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": storage}},
        "http": {"addr": address},
    }


def lab_configuration(place: Place) -> str:
    """The same for the lab's own: by TLS, and nobody writes to it."""
    address = f"{place.hypervisor_address}:{REGISTRY_PORT}"
    settings = configuration(STORAGE, address)
    settings["storage"] |= {"maintenance": {"readonly": {"enabled": True}}}
    certificate = {"certificate": f"{PKI}/registry.pem", "key": f"{PKI}/registry-key.pem"}
    settings["http"] |= {"tls": certificate}
    return yaml.safe_dump(settings)


def await_answer(address: str, process: subprocess.Popen[bytes]) -> None:
    host, _, port = address.partition(":")

    def answers() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return True
        return False

    failure = f"docker-registry does not answer at {address}"
    wait_for(answers, ANSWER_SECONDS, failure, lambda: "see the log", process)


if __name__ == "__main__":
    sys.exit(image.main(sys.argv[1:], "lab.registry", LAB.is_done, LAB.install))

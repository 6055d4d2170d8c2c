"""Debian's installer that boots over the network, and the mirror that it installs from.

`python -m lab.debian_installer is-done` (exit status 0 or 1), and `install`. All comes from the
mirror of this machine's apt, as Debian signed it. One that has lost parts of the newest installer,
as a cache has, is filled up with what PINNED names, of the point releases before: the index of the
installer's parts is then another one, which is signed here, and the installer is given that key.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import http.server
import inspect
import io
import lzma
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import requests

from lab import image
from lab.machine import FIXED_ADDRESSES, Network
from tools import pins
from tools.errors import LabError

SUITE = "trixie"
COMMANDS = ("cpio", "dpkg-deb", "gpg", "gpgv")
ARCHIVE_KEYRING = "usr/share/keyrings/archive.gpg"
STARTUP = "usr/lib/debian-installer-startup.d/S02fixed-addresses"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PACKAGES = "main/binary-amd64/Packages"
PARTS = "main/debian-installer/binary-amd64/Packages"
NETBOOT = "debian-installer-13-netboot-amd64"
PINNED = {
    f"dists/{SUITE}/{PARTS}.xz": (
        "8a62f92d62717509394f7b918c68594ae53d873628481defd3f2127cc8659f6e"
    ),
    f"pool/main/d/debian-installer-netboot-images/{NETBOOT}_20250803+deb13u6_all.deb": (
        "b14500fba1c068c7d818de1376e46151628d96d8b2f322dfcbe7a16b7b8c2fa4"
    ),
    "pool/main/e/e2fsprogs/e2fsprogs-udeb_1.47.2-3+b11_amd64.udeb": (
        "c3c05e09264d2359fb6fe75a658f6c84c50e76fa9546b0c799906a18d5763f63"
    ),
    "pool/main/u/util-linux/fdisk-udeb_2.41-5_amd64.udeb": (
        "bb726e7a38079413b4e8c6f1798c6118dbb286474d52286ad776d68f294b3d46"
    ),
    "pool/main/u/util-linux/libfdisk1-udeb_2.41-5_amd64.udeb": (
        "9c4275820498a3133636ec5770441b41d144eb8e0f8f14e756c05c88662e71c2"
    ),
    "pool/main/u/util-linux/libmount1-udeb_2.41-5_amd64.udeb": (
        "ecee4116ff7601af5128ffc5f7d89e46f4ce2588dd250f4c8bd386ffbd482e57"
    ),
    "pool/main/u/util-linux/libsmartcols1-udeb_2.41-5_amd64.udeb": (
        "9949af2389bc096bc397a6af70d02528533830375f4731e6f80039e6c92b69b3"
    ),
}
# $1 the folder with the Release file to be signed, $2 Debian's keyring, $3 one with this key too.
SIGN = """\
export GNUPGHOME="$1/.gnupg"
mkdir -m 700 "$GNUPGHOME"
gpg --batch --passphrase '' --quick-generate-key lab rsa3072 sign never
gpg --batch --armor --detach-sign --output "$1/Release.gpg" "$1/Release"
cp "$2" "$3"
gpg --export >>"$3"
rm -r "$GNUPGHOME"
"""
# $1 the folder of what is added to the RAM disk $2; of what is in one twice, the last one counts.
APPEND = 'cd "$1"; find . | cpio --create --format=newc --quiet | gzip -1 >>"$2"'


@dataclass(frozen=True)
class Mirror:
    """Debian's mirror, as this machine's apt has it."""

    url: str

    def ask(self, method: str, path: str) -> requests.Response:
        environment = image.proxy_environment()
        proxies = {it: environment.get(f"{it}_proxy", "") for it in ("http", "https")}
        return requests.request(method, f"{self.url}/{path}", proxies=proxies, timeout=60)

    def get(self, path: str, digest: str = "") -> bytes:
        """A file; LabError where it is not there, or is not the one that has this digest."""
        answer = self.ask("GET", path)
        if not answer.ok:
            raise LabError(f"{self.url}/{path}: {answer.status_code} {answer.reason}")
        if digest and hashlib.sha256(answer.content).hexdigest() != digest:
            raise LabError(f"{self.url}/{path} is another file than Debian says")
        return answer.content

    def index(self, path: str, release: str) -> list[str]:
        """The entries of an index that the Release file knows."""
        known = re.search(rf"^ ([0-9a-f]{{64}}) +\d+ {path}.xz$", release, re.MULTILINE)
        if not known:
            raise LabError(f"Debian's Release file has no {path}.xz")
        by_hash = f"{Path(path).parent}/by-hash/SHA256/{known[1]}"
        plain = f"dists/{SUITE}/{path}.xz"
        try:
            content = self.get(f"dists/{SUITE}/{by_hash}", known[1])
        except LabError:
            if plain not in PINNED:
                raise
            content = self.get(plain, PINNED[plain])
        return lzma.decompress(content).decode().strip().split("\n\n")


def of_apt() -> Mirror:
    return Mirror(image.sources()[0].address.rstrip("/"))


@functools.cache
def folder() -> Path:
    steps = (build, complete, netboot, sign)
    code = "".join(inspect.getsource(step) for step in steps)
    key = pins.digest(SIGN, APPEND, STARTUP, FIXED_ADDRESSES, repr(PINNED), code)
    return pins.cache() / f"debian-installer-{key}"


def is_done() -> bool:
    return folder().is_dir()


def install() -> None:
    """Fetch it unless it is there; LabError says what could not be had."""
    image.require(COMMANDS)
    with image.only_builder():
        if not is_done():
            with image.built("debian-installer", folder()) as (building, log):
                build(building, log)


def build(building: Path, log: Path) -> None:
    """`vmlinuz`, `initrd`, and in `dists` what is signed here."""
    mirror = of_apt()
    signed, release = building / "InRelease", building / "Release"
    signed.write_bytes(mirror.get(f"dists/{SUITE}/InRelease"))
    image.logged(["gpgv", "--keyring", str(KEYRING), "--output", str(release), str(signed)], log)
    text = release.read_text()
    parts = complete(mirror, mirror.index(PARTS, text))
    newest = next(
        entry for entry in mirror.index(PACKAGES, text) if value(entry, "Package") == NETBOOT
    )
    choices = {value(newest, "Filename"): value(newest, "SHA256")}
    choices |= {path: digest for path, digest in PINNED.items() if NETBOOT in path}
    for path, digest in choices.items():
        if netboot(mirror.get(path, digest), {value(it, "Package") for it in parts}, building, log):
            break
    else:
        raise LabError(f"{mirror.url} has the parts of no kernel that there is an installer with")
    sign(building, text, "\n\n".join(parts) + "\n", log)


def complete(mirror: Mirror, parts: list[str]) -> list[str]:
    """Of the installer's parts those that the mirror has, and what is pinned in place of others."""
    with concurrent.futures.ThreadPoolExecutor(16) as several:
        asked = several.map(lambda it: mirror.ask("HEAD", value(it, "Filename")).ok, parts)
        there = dict(zip(parts, asked, strict=True))
    kept = [part for part in parts if there[part]]
    pinned = {Path(path).name.partition("_")[0]: path for path in PINNED}
    for part in parts:
        path = pinned.get(value(part, "Package"))
        if there[part] or not path:
            continue
        size = len(mirror.get(path, PINNED[path]))
        for name, it in (("Filename", path), ("Size", str(size)), ("SHA256", PINNED[path])):
            part = re.sub(rf"^{name}: .*$", f"{name}: {it}", part, flags=re.MULTILINE)
        kept.append(part)
    return kept


def value(entry: str, name: str) -> str:
    found = re.search(rf"^{name}: (.*)$", entry, re.MULTILINE)
    return found[1] if found else ""


def netboot(package: bytes, parts: set[str], building: Path, log: Path) -> bool:
    """Whether its kernel is one that there are parts for; it and its RAM disk are there then."""
    file, root = building / "netboot.deb", building / "netboot"
    file.write_bytes(package)
    image.logged(["dpkg-deb", "--extract", str(file), str(root)], log)
    (kernel,) = root.glob("usr/lib/debian-installer/images/*/amd64/text/debian-installer/*/linux")
    version = re.search(rb"\d+\.\d+\.\d+\S*-amd64", kernel.read_bytes())
    found = version is not None and f"ext4-modules-{version[0].decode()}-di" in parts
    if found:
        kernel.rename(building / "vmlinuz")
        kernel.with_name("initrd.gz").rename(building / "initrd")
    image.remove_tree(root)
    file.unlink()
    return found


def sign(building: Path, release: str, parts: str, log: Path) -> None:
    """The Release file of the parts; its key, and FIXED_ADDRESSES, in the installer's RAM disk."""
    suite, added = building / "dists" / SUITE, building / "added"
    index = lzma.compress(parts.encode(), preset=1)
    image.write(suite / f"{PARTS}.xz", "")
    (suite / f"{PARTS}.xz").write_bytes(index)
    head = release.partition("MD5Sum:")[0].partition("SHA256:")[0]
    line = f" {hashlib.sha256(index).hexdigest()} {len(index)} {PARTS}.xz\n"
    image.write(suite / "Release", f"{head}SHA256:\n{line}")
    image.write(added / ARCHIVE_KEYRING, "")
    image.write(added / STARTUP, f"{FIXED_ADDRESSES}\n")
    keyrings = (str(KEYRING), f"{added}/{ARCHIVE_KEYRING}")
    image.logged(["sh", "-euc", SIGN, "sh", str(suite), *keyrings], log)
    image.logged(["sh", "-euc", APPEND, "sh", str(added), str(building / "initrd")], log)
    image.remove_tree(added)


class Handler(http.server.SimpleHTTPRequestHandler):
    """A folder of files, and below /debian/ the mirror, of which packages are kept."""

    protocol_version = "HTTP/1.1"

    def send_head(self) -> io.BytesIO | BinaryIO | None:
        path = self.path.partition("/debian/")[2]
        if not path:
            return super().send_head()
        try:
            content = of_debian(path)
        except LabError as error:
            self.send_error(404, str(error))
            return None
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return io.BytesIO(content)


class Server(http.server.ThreadingHTTPServer):
    """It has nothing to say of a machine whose power was cut."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def of_debian(path: str) -> bytes:
    """A file of the mirror as the installer is to see it."""
    kept = (folder() / path, pins.cache() / "debian" / path)
    for file in kept:
        if file.is_file():
            return file.read_bytes()
    content = of_apt().get(path)
    if path.startswith("pool/"):
        kept[1].parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=kept[1].parent, delete=False) as new:
            new.write(content)
        Path(new.name).rename(kept[1])
    return content


@contextmanager
def web_server(network: Network, served: Path, log: Path) -> Iterator[None]:
    """It listens where `network` is, and asks the mirror from here; `log` has what it was asked."""

    class Logged(Handler):
        def log_message(self, form: str, *words: object) -> None:
            with log.open("a") as file:
                file.write(f"{form % words}\n")

    def listening() -> Server:
        network.enter()
        return Server(("", 80), functools.partial(Logged, directory=str(served)))

    with concurrent.futures.ThreadPoolExecutor(1) as there:
        server = there.submit(listening).result()
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


if __name__ == "__main__":
    sys.exit(image.main(sys.argv[1:], "lab.debian_installer", is_done, install))

"""The index of the installer's parts, where the mirror has lost some."""

from __future__ import annotations

import hashlib

import pytest

from lab import debian_installer
from lab.debian_installer import Mirror, complete
from tools.errors import LabError

PART = "Package: {name}\nVersion: 2\nFilename: {file}\nSize: 1\nSHA256: {digest}"
OLDER = b"the older one"


def part(name: str, file: str) -> str:
    return PART.format(name=name, file=file, digest="0" * 64)


class Answer:
    def __init__(self, content: bytes | None):
        self.ok, self.content = content is not None, content or b""
        self.status_code, self.reason = (200, "OK") if self.ok else (404, "Not Found")


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """It has one part, and the older one of another."""
    there = {"pool/here_2.udeb": b"here", "pool/lost_1.udeb": OLDER}
    monkeypatch.setattr(Mirror, "ask", lambda _, method, path: Answer(there.get(path)))
    pinned = {"pool/lost_1.udeb": hashlib.sha256(OLDER).hexdigest()}
    monkeypatch.setattr(debian_installer, "PINNED", pinned)
    return Mirror("http://mirror.example.com/debian")


def test_what_is_lost_is_the_pinned_one_or_left_out(mirror: Mirror) -> None:
    here, lost = part("here", "pool/here_2.udeb"), part("lost", "pool/lost_2.udeb")
    kept, older = complete(mirror, [here, lost, part("gone", "pool/gone_2.udeb")])
    assert kept == here
    assert "Filename: pool/lost_1.udeb\nSize: 13\n" in older
    assert older.endswith(f"SHA256: {hashlib.sha256(OLDER).hexdigest()}")


def test_another_file_than_the_pinned_one_is_refused(mirror: Mirror) -> None:
    with pytest.raises(LabError, match="is another file than Debian says"):
        mirror.get("pool/lost_1.udeb", "0" * 64)

"""A backup of the certificate authority as a file: a tar with a manifest, encrypted by openssl.

The manifest's digests lie inside what is encrypted: a wrong pass phrase, a cut or an altered file
is found before anything is made of it.
"""

from __future__ import annotations

import getpass
import hashlib
import io
import os
import sqlite3
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from components.archive import File
from tools.errors import LabError

CIPHER = ("-aes-256-cbc", "-pbkdf2", "-iter", "600000", "-md", "sha256")
LEAST_PASSPHRASE = 12
# What a backup may hold; nothing else of it ever gets to a host.
PUBLIC = (
    *("MANIFEST", "certdb.sqlite", "ca.pem", "also.pem", "config.json", "db.json"),
    *("ocsp.pem", "ocsp.inputs", "ocsp-request.pem", "ca.crl", "former-authorities"),
    *("tls.pem", "tls.inputs", "renewal", "request.pem", "gate.sqlite"),
)
PRIVATE = (
    *("ca-key.pem", "also-key.pem", "ocsp-key.pem"),
    *("gate.key", "operator.key", "tls-key.pem"),
)
REQUIRED = ("MANIFEST", "certdb.sqlite", "ca.pem")


@dataclass(frozen=True)
class Backup:
    """The files of a backup, checked."""

    files: dict[str, File]

    @classmethod
    def of(cls, data: bytes) -> Backup:
        """The backup in a tar; LabError names what is wrong with it."""
        try:
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                files = {}
                for entry in archive:
                    stream = archive.extractfile(entry)
                    if stream is None:
                        raise LabError(f"the backup holds {entry.name}, which is no file")
                    files[entry.name.removeprefix("./")] = File(stream.read())
        except tarfile.TarError as error:
            raise LabError(f"the backup is no tar or is cut off ({error})") from None
        check(files)
        return cls(files)

    @property
    def has_keys(self) -> bool:
        return "ca-key.pem" in self.files

    def summary(self) -> str:
        """How many certificates it knows of, and whether it holds keys."""
        with tempfile.TemporaryDirectory(prefix="autojoin-backup-") as folder:
            path = Path(folder) / "certdb.sqlite"
            path.write_bytes(self.files["certdb.sqlite"].content)
            database = sqlite3.connect(path)
            try:
                query = "SELECT count(*), coalesce(sum(status = 'revoked'), 0) FROM certificates"
                count, revoked = database.execute(query).fetchone()
            except sqlite3.Error as error:
                raise LabError(f"the backup's certdb can't be read: {error}") from None
            finally:
                database.close()
        keys = "with every private key" if self.has_keys else "without private keys"
        return f"{count} certificates, {revoked} of them revoked; {keys}"


def check(files: dict[str, File]) -> None:
    """LabError unless `files` are those of a backup, each as its manifest has it."""
    for name in REQUIRED:
        if name not in files:
            raise LabError(f"this is no backup of a certificate authority: {name} is missing")
    strange = sorted(set(files) - {*PUBLIC, *PRIVATE})
    if strange:
        raise LabError(f"the backup holds files that are none of its own: {', '.join(strange)}")
    lines = files["MANIFEST"].content.decode(errors="replace").splitlines()
    digests = {line.split("*")[-1].removeprefix("./"): line.split()[0] for line in lines if line}
    for name, file in files.items():
        if name == "MANIFEST":
            continue
        if digests.get(name) != hashlib.sha256(file.content).hexdigest():
            raise LabError(f"the backup is damaged: {name} is not what its manifest says")


def passphrase(file: Path | None, *, twice: bool) -> str:
    """From the file's first line, or asked for at the terminal."""
    if file is not None:
        try:
            text = (file.read_text().splitlines() or [""])[0]
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise LabError(f"PASSPHRASE_FILE: {file} can't be read ({reason})") from None
    else:
        try:
            text = getpass.getpass("Pass phrase of the backup: ")
            if twice and getpass.getpass("Once more: ") != text:
                raise LabError("the two pass phrases differ")
        except (EOFError, OSError):
            raise LabError("no terminal to ask for the pass phrase; PASSPHRASE_FILE=file") from None
    if twice and len(text) < LEAST_PASSPHRASE:
        raise LabError(f"the pass phrase must have at least {LEAST_PASSPHRASE} characters")
    return text


def encrypted(data: bytes, phrase: str) -> bytes:
    return _openssl(data, phrase)


def decrypted(path: Path, phrase: str) -> bytes:
    """The tar in an encrypted backup; LabError where the pass phrase or the file is wrong."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LabError(f"FILE: {path} can't be read ({error.strerror})") from None
    try:
        return _openssl(data, phrase, "-d")
    except LabError:
        raise LabError(f"{path}: a wrong pass phrase, or no backup of ours") from None


def _openssl(data: bytes, phrase: str, *options: str) -> bytes:
    """openssl enc, which takes the pass phrase from a pipe of its own."""
    reader, writer = os.pipe()
    try:
        os.write(writer, phrase.encode() + b"\n")
        os.close(writer)
        answer = subprocess.run(
            ["openssl", "enc", *options, *CIPHER, "-salt", "-pass", f"fd:{reader}"],
            input=data,
            capture_output=True,
            pass_fds=(reader,),
        )
    except OSError as error:
        raise LabError(f"openssl can't be run ({error.strerror})") from None
    finally:
        os.close(reader)
    if answer.returncode:
        raise LabError(f"openssl: {answer.stderr.decode(errors='replace').strip()}")
    return answer.stdout


def write(path: Path, data: bytes) -> None:
    """Write `path` whole or not at all, for its owner only."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise LabError(f"OUT: {path} can't be written ({error.strerror})") from None

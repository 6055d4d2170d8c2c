"""Make the stand-ins: each one executable file, a zip archive that Python runs.

So it depends on no checkout, and a copy of it works; it does depend on the interpreter, which has
Pulumi's SDK and `cryptography`.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
import zipapp
from pathlib import Path

STAND_INS = ("command", "tls")
_SOURCE = Path(__file__).resolve().parent
_NOT_IN_IT = {Path(__file__).name, "install.py", "given.py"}
_MAIN = """\
from {package}.plugin import main
from {package}.{name} import KINDS, stop

main("{name}", "{version}", KINDS, stop)
"""


def build(destination: Path, python: str) -> dict[str, Path]:
    """`destination`/pulumi-resource-NAME of each stand-in, run by the interpreter `python`."""
    destination.mkdir(parents=True, exist_ok=True)
    return {name: pack(destination, name, python, _MAIN) for name in STAND_INS}


def pack(destination: Path, name: str, python: str, main: str) -> Path:
    """One stand-in that begins with `main`, in which its package, name and version are put."""
    target = destination / f"pulumi-resource-{name}"
    with tempfile.TemporaryDirectory(prefix="autojoin-stand-in-") as folder:
        place = Path(folder).joinpath(*__package__.split("."))
        place.mkdir(parents=True)
        for parent in list(place.parents)[: __package__.count(".")]:
            (parent / "__init__.py").touch()
        for file in _SOURCE.glob("*.py"):
            if file.name not in _NOT_IN_IT:
                shutil.copyfile(file, place / file.name)
        words = {"package": __package__, "name": name, "version": version(name)}
        (Path(folder) / "__main__.py").write_text(main.format(**words))
        zipapp.create_archive(folder, target, python)
    return target


def version(name: str) -> str:
    """The plugin's version: that of its Python SDK."""
    return importlib.metadata.version(f"pulumi-{name}")

"""The files of one worker of each hardware type, as `make render` writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from components.archive import File
from components.load import from_stack_file
from components.machine_host import delivery
from components.workers import bare_metal, bhyve, board, cloud_init, preseed
from components.workers.hardware_types import HARDWARE, of
from tests.unit.components.examples import AUTHORITY_PEM

LAB = from_stack_file(Path(__file__).parent / "hardware.yaml")
SCRIPTS = {
    cloud_init: ("JOIN_SCRIPT", "INSTALL_SCRIPT"),
    board: ("BOARD_SCRIPT",),
    bare_metal: ("GUARD_SCRIPT", "POWER_SCRIPT"),
    preseed: ("FINISH_SCRIPT",),
    bhyve: ("GUEST_SCRIPT",),
    delivery: ("DELIVER_SCRIPT",),
}


@pytest.fixture(autouse=True)
def scripts_stand_for_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts lie in on_node/ and on_host/: here only their place is shown."""
    for module, names in SCRIPTS.items():
        for name in names:
            path = tmp_path / name
            path.write_text(f"#!/bin/sh\n# render/files/{getattr(module, name).name}\n")
            monkeypatch.setattr(module, name, path)


@pytest.mark.parametrize("name", LAB.workers)
def test_files(golden: Callable[[str, str], None], name: str) -> None:
    worker = of(LAB, name)
    files = worker.files(worker.emit(None, AUTHORITY_PEM))
    shown = {path: file for path, file in files.items() if path != "seed.iso"}
    golden(f"hardware/{name}.txt", "\n".join(section(path, shown[path]) for path in sorted(shown)))


def test_no_type_is_left_out() -> None:
    assert {worker.hardware for worker in LAB.workers.values()} == set(HARDWARE)


def section(path: str, file: File) -> str:
    return f"=== {path} ({file.mode:04o})\n{file.content.decode()}"

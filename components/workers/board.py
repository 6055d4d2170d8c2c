"""What the modules of a Turing Pi board share: the board's script and its settings."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import ClassVar

from components.archive import File, text
from components.machine_host import delivery
from components.workers.hardware import REDACTED, Emission, Hardware

BOARD_SCRIPT = Path(delivery.__file__).parent / "on_host" / "board.sh"


class Module(Hardware):
    """A compute module. A type states its image's seed partition and kernel arguments."""

    architecture = "arm64"
    plain = True
    required = ("slot",)
    own = ("slot", "bmc")
    example: ClassVar = {"slot": 1}
    # The label of the image's FAT partition that cloud-init takes the seed from.
    volume: ClassVar[str]
    # What the kernel's command line must hold, where it lies in cmdline.txt on that partition.
    command_line: ClassVar[tuple[str, ...]] = ()

    def own_files(self, emission: Emission) -> dict[str, File]:
        files = {
            "board.sh": File(BOARD_SCRIPT.read_bytes(), 0o755),
            "board.env": text(self.environment(), 0o644),
        }
        board = self.site.board
        if board and board.password:
            shown = emission.keys.join_key != REDACTED
            password = board.password.get_secret_value() if shown else REDACTED
            files["bmc-password"] = text(f"{password}\n")
        return files

    def environment(self) -> str:
        """board.env: shell assignments."""
        board = self.site.board
        values = {
            "NODE": self.node,
            "HARDWARE": self.name,
            "SLOT": str(self.settings.slot),
            "BMC": board.address if board else "",
            "BMC_USER": board.user if board else "root",
            "BMC_PUBLIC_KEY": (board.public_key if board else None) or "",
            "VOLUME": self.volume,
            "CMDLINE": " ".join(self.command_line),
        }
        return "".join(f"{key}={shlex.quote(value)}\n" for key, value in values.items())

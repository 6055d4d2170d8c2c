"""What the modules of a Turing Pi board share: the board's script and its settings."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from components.archive import File, text
from components.machine_host import delivery
from components.workers.hardware import Emission, Hardware, assignments
from stack import models
from stack.models import ProvisioningHost

BOARD_SCRIPT = Path(delivery.__file__).parent / "on_host" / "board.sh"


class Module(Hardware):
    """A compute module. A type states its image's seed partition and kernel arguments."""

    architecture = "arm64"
    plain = True
    required = ("slot",)
    own = ("slot", "bmc", "image")
    example: ClassVar = {"slot": 1}
    protocols = ("turing-pi",)
    follows_seed = False
    usual_join = 3600
    # The label of the image's FAT partition that cloud-init takes the seed from.
    volume: ClassVar[str]
    # What the kernel's command line must hold, where it lies in cmdline.txt on that partition.
    command_line: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def is_started(cls, settings: models.Worker | None, host: ProvisioningHost | None) -> bool:
        return bool(settings and host and settings.bmc and settings.image)

    def place(self) -> list[str]:
        slot = [str(self.settings.bmc), str(self.settings.slot)] if self.starts_by_itself else []
        return [*super().place(), *slot]

    def own_files(self, emission: Emission) -> dict[str, File]:
        files = {
            "board.sh": File(BOARD_SCRIPT.read_bytes(), 0o755),
            "board.env": text(self.environment(), 0o644),
        }
        return files | self.bmc_password(emission)

    def environment(self) -> str:
        """board.env: shell assignments."""
        board = self.site.board
        values = {
            "NODE": self.node,
            "HARDWARE": self.name,
            "SLOT": str(self.settings.slot),
            "BMC": board.address if board else "",
            "BMC_PORT": str(board.port or "") if board else "",
            "BMC_USER": board.user if board else "root",
            "BMC_PUBLIC_KEY": (board.public_key if board else None) or "",
            "VOLUME": self.volume,
            "CMDLINE": " ".join(self.command_line),
        }
        if self.starts_by_itself:
            values |= {"MANAGER": "turing-pi", "IMAGE": self.settings.image or ""}
        return assignments(values)

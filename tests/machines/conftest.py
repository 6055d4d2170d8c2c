"""The lab of `make machines`: its own, as those of the end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Lab, own_lab


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A lab with one worker, where Cilium's operator runs; nothing stands in for guests."""

    def keep_one(config: dict[str, Any]) -> None:
        workers = config["autojoin:workers"]
        config["autojoin:workers"] = {"worker-1": workers["worker-1"]}

    with own_lab(lambda lab: lab.edit(keep_one)) as lab:
        lab.on_hypervisor("systemctl stop autojoin-rack")
        yield lab

"""Fixtures: CFSSL for this machine's processor, and for arm64, which the kernel emulates."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lab import emulation
from tools import install

HERE = os.uname().machine


# For tests that between them have CFSSL do all it is asked for. The rest run with this machine's:
# emulated, they take minutes more. CFSSL_PROCESSOR=aarch64 has them run with the other one.
EMULATED = [] if HERE == "aarch64" else [pytest.param("aarch64", marks=pytest.mark.full)]
both_processors = pytest.mark.parametrize("processor", [HERE, *EMULATED], indirect=True)


@pytest.fixture(scope="module", autouse=True)
def processor(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The processor that the CFSSL on PATH is made for, as `uname -m` names it."""
    name = getattr(request, "param", os.environ.get("CFSSL_PROCESSOR", HERE))
    if name == HERE:
        yield name
        return
    folder = tmp_path_factory.mktemp("programs")
    (folder / "cfssl").symlink_to(install.cfssl("linux", "arm64"))
    with emulation.arm64_programs(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        yield name

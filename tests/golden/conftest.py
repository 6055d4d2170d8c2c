"""Golden files: what the components emit, as a person would review it.

`python -m pytest tests/golden --refresh` writes them anew; the diff is then the review.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

FILES = Path(__file__).parent / "files"
Golden = Callable[[str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--refresh", action="store_true", help="write the golden files anew")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """`golden(name, text)`: the text must be that of files/`name`."""
    refresh = bool(request.config.getoption("--refresh", default=False))

    def check(name: str, text: str) -> None:
        path = FILES / name
        if refresh:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"{path} is missing; run: python -m pytest tests/golden --refresh"
        assert text == path.read_text(), (
            f"{name} changed; where that is meant: python -m pytest tests/golden --refresh"
        )

    return check

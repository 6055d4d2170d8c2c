"""One lab for the whole folder: starting one is what costs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import own_lab
from tests.lifecycle.cluster import Cluster


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    with own_lab() as lab:
        yield Cluster(lab)

"""Cilium's values and resources for the post's own lab, in each supported release."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from components import from_lab
from components.cilium import values as cilium
from components.documents import cilium_files
from tests.unit.components.bgp.bgp_examples import full_lab, lab

RELEASES = ("1.17.0", "1.18.4", "1.19.4", "1.20.2")


@pytest.mark.parametrize("version", RELEASES)
def test_the_posts_lab(golden: Callable[[str, str], None], version: str) -> None:
    for path, file in cilium_files(lab(version)).items():
        # The routers' side does not depend on the release.
        if "router/" not in path or version == RELEASES[-1]:
            folder = "cilium" if "router/" in path else f"cilium/{version.rpartition('.')[0]}"
            golden(f"{folder}/{path}", file.content.decode())


@pytest.mark.parametrize("version", ["1.17.0", "1.18.4"])
def test_every_value_of_the_post_is_there(version: str) -> None:
    post = yaml.safe_load((Path(__file__).parent / "post_values.yaml").read_text())
    values = cilium.helm_values(from_lab.cilium(lab(version)))
    # Merging the post's values in changes nothing: all of them are there as they are.
    assert cilium.merge(values, post) == values


def test_every_key(golden: Callable[[str, str], None]) -> None:
    golden("cilium/every-key.yaml", cilium_files(full_lab())["resources.yaml"].content.decode())

"""One deployed stack for all tests of this folder that look at one and change nothing of it."""

from __future__ import annotations

import pytest
import yaml

from tests.preview.deployed import Config, Deployed
from tools.pins import CHECKOUT, Layout

VALID = CHECKOUT / "tests/unit/stack/valid.yaml"
NODES = ("node-1", "node-2", "node-3")
KEY = "a very private key"


def deployed_config() -> Config:
    """Three nspawn workers at addresses where nobody answers."""
    text = VALID.read_text().replace("192.168.10.", "203.0.113.")
    config: Config = yaml.safe_load(text)["config"]
    del config["autojoin:certificateAuthority"]["host"]["privateKey"]
    config["autojoin:cilium"] = {"chart": str(Layout().chart)}
    machine = config["autojoin:workers"]["machine"]
    config["autojoin:workers"] = {
        name: {**machine, "address": f"203.0.113.{11 + number}"}
        for number, name in enumerate(NODES)
    }
    return config


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    folder = tmp_path_factory.mktemp("deployed")
    (folder / "key").write_text(KEY)
    return Deployed(folder, deployed_config())

"""The machine image: where it comes from, what its key depends on, what lies in its layers."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from lab import hypervisor, image
from lab.image import Source

FILES = Path(image.__file__).resolve().parent / "files"
MIRROR = "http://mirror.example/debian/"
SECURITY = "http://mirror.example/debian-security/"


def test_the_suite_comes_first() -> None:
    listing = "\n".join(
        [
            f"Debian|{SECURITY}|bookworm-security|main",
            f"Debian|{MIRROR}|bookworm-updates|main",
            f"Debian|{MIRROR}|bookworm|main",
            f"Debian|{MIRROR}|bookworm|contrib",
            "Google|http://other.example/|bookworm|main",
        ]
    )
    assert image.fitting(listing) == [
        Source(MIRROR, "bookworm", "main"),
        Source(SECURITY, "bookworm-security", "main"),
        Source(MIRROR, "bookworm-updates", "main"),
    ]


def test_a_mirror_of_another_release_will_do() -> None:
    assert image.fitting(f"Debian|{MIRROR}|trixie|main\n") == [Source(MIRROR, "bookworm", "main")]


@pytest.mark.parametrize("listing", ["", "Ubuntu|http://u.example/|noble|main", "nonsense"])
def test_without_debian_there_is_none(listing: str) -> None:
    assert image.fitting(listing) == []


def test_this_machine_has_a_source() -> None:
    found = image.sources()
    assert found[0].codename == "bookworm"
    assert found[0].address.startswith("http")


def test_the_key_follows_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    before = image.digest()
    assert image.digest() == before
    monkeypatch.setattr(image, "PACKAGES", (*image.PACKAGES, "one-more"))
    assert image.digest() != before


def test_the_key_follows_the_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = image.digest()
    (tmp_path / "file").write_text("other")
    monkeypatch.setattr(image, "FILES", tmp_path)
    assert image.digest() != before


def test_no_registry_is_named_in_what_is_committed() -> None:
    for path in FILES.rglob("*"):
        if path.is_file():
            assert "debian.org" not in path.read_text()


def test_cloud_init_modules_cover_what_a_seed_may_ask() -> None:
    config = yaml.safe_load((FILES / "image/etc/cloud/cloud.cfg.d/90-lab.cfg").read_text())
    assert config["datasource_list"] == ["NoCloud"]
    assert {"write-files", "users-groups", "ssh"} <= set(config["cloud_init_modules"])
    assert "runcmd" in config["cloud_config_modules"]
    assert "scripts-user" in config["cloud_final_modules"]


def test_every_script_of_the_layers_is_executable() -> None:
    scripts = [path for path in FILES.rglob("lib/autojoin/*")]
    scripts = [path for path in scripts if path.is_file() and path.suffix == ""]
    assert {"runc", "shims", "network", "rack"} <= {path.name for path in scripts}
    assert [path for path in scripts if not path.stat().st_mode & stat.S_IXUSR] == []


def run_runc(bundle: Path, *arguments: str) -> str:
    """What runc would have been called with."""
    real = bundle / "real-runc"
    real.write_text('#!/bin/sh\necho "$*"\n')
    real.chmod(0o755)
    answer = subprocess.run(
        ["dash", str(FILES / "worker/usr/local/lib/autojoin/runc"), *arguments],
        env={**os.environ, "REAL_RUNC": str(real)},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


def test_runc_gets_no_limits(tmp_path: Path) -> None:
    config = {
        "process": {"oomScoreAdj": -998, "args": ["/pause"]},
        "linux": {"resources": {"cpu": {"shares": 2}, "memory": {}, "devices": [{"allow": False}]}},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    called = run_runc(tmp_path, "--root", "/run/runc", "create", "--bundle", str(tmp_path), "name")
    assert called == f"--root /run/runc create --bundle {tmp_path} name"
    left = json.loads((tmp_path / "config.json").read_text())
    assert left["linux"]["resources"] == {"devices": [{"allow": False}]}
    assert left["process"] == {"args": ["/pause"]}


def test_runc_update_is_nothing_and_the_rest_passes(tmp_path: Path) -> None:
    assert run_runc(tmp_path, "update", "--resources", "-", "name") == ""
    assert run_runc(tmp_path, "state", "name") == "state name"


def test_units_of_the_hypervisor_are_all_there() -> None:
    units = FILES / "hypervisor/etc/systemd/system"
    assert {f"{name}.service" for name in hypervisor.UNITS} == {
        path.name for path in units.iterdir()
    }
